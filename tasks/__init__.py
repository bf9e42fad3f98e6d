"""The workers' side: the Celery app, the three tasks, and what they stand on."""

if __name__ != "oyer.tasks":
    raise ImportError(f"import oyer.tasks, not {__name__}: the bare name loads a second copy")
