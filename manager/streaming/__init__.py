"""Scores rollouts one by one: forms groups and batches as they arrive."""
