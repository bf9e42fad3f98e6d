"""Criteria that a judge gives a verdict on: their settings, and the data formats of rollouts."""
