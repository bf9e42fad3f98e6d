"""The backends that `LengthPenaltyRewardManager` uses: one per process and settings."""

import importlib
import os
import threading
from functools import lru_cache
from typing import Any

from oyer.local.extras import WORKER_PACKAGES, require
from oyer.manager import client
from oyer.manager.verl.settings import LengthPenaltyConfig, Resolved, resolve

_backends: dict[tuple[int, LengthPenaltyConfig], client.RewardManager] = {}
_backends_lock = threading.Lock()


def manager_of(settings: LengthPenaltyConfig, resolved: Resolved) -> client.RewardManager:
    """Return this process's manager for these settings; starts a local backend if needed."""
    with _backends_lock:
        place_ = (os.getpid(), settings)
        if place_ not in _backends:
            _backends[place_] = (
                _started(resolved)
                if resolved.mode == "local"
                else client.RewardManager(resolved.config)
            )
        return _backends[place_]


def _started(resolved: Resolved) -> client.RewardManager:
    """Start workers on this machine; they inherit the API key through the environment."""
    before = {name: os.environ.get(name) for name in resolved.environ}
    os.environ.update(resolved.environ)
    try:
        return client.RewardManager.local(resolved.config)
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@lru_cache(maxsize=16)
def in_process_scorer(settings: LengthPenaltyConfig) -> Any:
    # Imported by name: this mode loads worker libraries that the trainer side never loads otherwise.
    require("scoring in the trainer's process", "worker", *WORKER_PACKAGES)
    module = importlib.import_module("oyer.tasks.in_process")
    resolved = resolve(settings)
    return module.InProcessScorer(resolved.config, {**os.environ, **resolved.environ})


def close(settings: LengthPenaltyConfig) -> None:
    """Stop the backend that this process started for these settings."""
    with _backends_lock:
        started = _backends.pop((os.getpid(), settings), None)
    if started is not None:
        started.close()
