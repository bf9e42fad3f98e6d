"""A reward backend for RL post-training: the public names, loaded on first use.

`from oyer import RewardManager, Rollout, RewardConfig` gives what `oyer.manager` exports.
"""

import sys
from importlib import import_module
from pkgutil import extend_path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from oyer.manager import *

    __version__: str

# In a clone, this folder holds none of the subpackages: they are found where they are installed.
__path__ = extend_path(__path__, __name__)


def __getattr__(name: str) -> object:
    """Load a public name of `oyer.manager`, or the version of the distribution."""
    if name == "__version__":
        # A worker loads as little as possible before gevent patches the standard library.
        return import_module("importlib.metadata").version("oyer")
    if name in ("__all__", "OyerJudge") and "verifiers.v1" in sys.modules:
        # verifiers looks for a plugged judge in `__all__` of the package that its `id` names.
        adapter = import_module("oyer.manager.verifiers")
        return adapter.__all__ if name == "__all__" else adapter.OyerJudge
    if not name.startswith("_"):
        manager = import_module("oyer.manager")
        if name in manager.__all__:
            return getattr(manager, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """List the public names as well."""
    return sorted([*globals(), "__version__", *import_module("oyer.manager").__all__])
