"""Training in mixed precision as a scheduled workload."""
