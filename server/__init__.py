"""Oyer over HTTP: one ASGI app for trainers that can make a request and nothing more."""

from oyer.server.app import create_app
from oyer.server.settings import ServerSettings

__all__ = ["ServerSettings", "create_app"]
