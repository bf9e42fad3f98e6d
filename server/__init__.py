"""The HTTP server: a FastAPI application for trainers that score through HTTP requests."""

from oyer.server.app import create_app
from oyer.server.settings import ServerSettings

__all__ = ["ServerSettings", "create_app"]
