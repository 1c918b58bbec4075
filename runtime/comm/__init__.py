"""The communication half of the lecture: collectives, matrix-vector products and sparse products as task graphs."""
