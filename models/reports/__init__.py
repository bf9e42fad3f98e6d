"""Queries that sum up a run for reports."""
