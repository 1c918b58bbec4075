"""One process runs a graph: programs, the frontier, workers, the virtual clock, and what an engine has to offer."""
