"""Judges rollouts: requests, calls, answers and their aggregation to verdicts."""
