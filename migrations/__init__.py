"""Alembic migrations of the audit record."""
