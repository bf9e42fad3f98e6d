"""Deletes runs, or their texts, from the record."""
