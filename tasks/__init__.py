"""The Celery app, its tasks, and the code that they use."""

if __name__ != "oyer.tasks":
    raise ImportError(f"import oyer.tasks, not {__name__}: the bare name loads a second copy")
