"""What a backend does now: queues, batches, endpoints, budgets."""
