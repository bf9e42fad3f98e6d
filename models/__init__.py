"""SQLAlchemy tables of the audit record and the queries on them; imports nothing of ours."""
