"""Submits batches to the workers and reads their results."""
