"""Pictures of graphs and runs."""
