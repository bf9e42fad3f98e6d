"""What a worker process holds and does beside its tasks."""
