"""Graph in, graph or numbers out: versions, messages, conversions, batches, coarser tasks, bounds."""
