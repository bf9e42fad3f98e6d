"""Reads a score from a judge's reply."""
