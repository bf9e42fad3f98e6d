"""Submits batches to the workers and waits for their results."""
