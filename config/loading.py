"""Reads the configuration: one YAML or TOML file with its rubric files, then the environment.

`OYER_CONFIG` names the file for processes that take no option; `OYER_<SECTION>__<KEY>`
overrides a key, e.g. `OYER_BROKER__URL` or `OYER_ENDPOINTS__DEEPSEEK__TIMEOUT_S`.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from oyer.config import rubric as rubrics
from oyer.config.explaining import explain
from oyer.config.reward import RewardConfig
from oyer.protocol.errors import InvalidConfig

CONFIG_VARIABLE = "OYER_CONFIG"
"""Environment variable that names the configuration file."""

_PREFIX = "OYER_"


def load_config(
    path: str | Path | None = None, environ: Mapping[str, str] = os.environ
) -> RewardConfig:
    """Load the configuration.

    Args:
        path: a `.yaml`, `.yml` or `.toml` file; by default the file that `OYER_CONFIG` names.
            Without either, the defaults and the environment apply.
        environ: the environment variables.

    Raises:
        InvalidConfig: the file is missing or unreadable, or a key is unknown or wrong; the
            message names the file, the key and the expected value.
    """
    path = path or environ.get(CONFIG_VARIABLE) or None
    path = path and os.path.expanduser(path)
    source = f"configuration file {path}" if path else "configuration"
    raw = _read(Path(path), source) if path else {}
    folder = Path(path).absolute().parent if path else Path()
    return validate(overridden(raw, environ), source=source, folder=folder)


def validate(raw: object, *, source: str = "configuration", folder: Path = Path()) -> RewardConfig:
    """Validate a plain dict.

    Args:
        source: its name in errors.
        folder: what relative paths start from.

    Raises:
        InvalidConfig: names every wrong key and the expected value.
    """
    _refuse_iterables(raw, source)
    raw = _with_files(raw, source, folder)
    try:
        return RewardConfig.model_validate(raw)
    except ValidationError as error:
        raise InvalidConfig(f"{source}: {explain(error, RewardConfig)}") from error


def read_rubric(rubric: str, folder: Path = Path()) -> str:
    """Return the text of a rubric: a built-in name, a `.md` or `.txt` file, or the text itself.

    Args:
        folder: what a relative path starts from; `~` is the home folder.

    Raises:
        InvalidConfig: there is no such name or file, or the text cannot serve as a rubric.
    """
    return rubrics.resolve(_rubric_text(rubric, folder))


def _rubric_text(rubric: str, folder: Path) -> str:
    """Return a file's checked text for a path, and anything else unchanged."""
    if not rubrics.names_file(rubric):
        return rubric
    path = folder / os.path.expanduser(rubric)
    try:
        return rubrics.checked(path.read_text("utf-8-sig"))
    except FileNotFoundError as error:
        raise InvalidConfig(
            f"rubric: there is no file {str(path.absolute())!r};"
            f" the built-in rubrics are {', '.join(rubrics.BUILT_IN)}"
        ) from error
    except (OSError, UnicodeError) as error:
        raise InvalidConfig(f"rubric: file {str(path)!r} cannot be read: {error}") from error


def _with_files(raw: object, source: str, folder: Path) -> object:
    """Replace rubric paths by the files' texts, and let signing paths start from `folder`."""
    if not isinstance(raw, Mapping):
        return raw
    filled = dict(raw)
    if isinstance(judges := raw.get("judges"), (list, tuple)):
        filled["judges"] = judges = list(judges)
        for i, judge in enumerate(judges):
            if isinstance(judge, Mapping) and isinstance(rubric := judge.get("rubric"), str):
                try:
                    judges[i] = {**judge, "rubric": _rubric_text(rubric, folder)}
                except InvalidConfig as error:
                    raise InvalidConfig(f"{source}: judges[{i}].{error}") from error
    broker = raw.get("broker")
    if isinstance(broker, Mapping) and isinstance(signing := broker.get("signing"), Mapping):
        paths = {
            key: str(folder / os.path.expanduser(path))
            for key in ("key", "cert", "cert_store")
            if isinstance(path := signing.get(key), str)
        }
        filled["broker"] = {**broker, "signing": {**signing, **paths}}
    return filled


def _refuse_iterables(raw: object, source: str) -> None:
    """Refuse iterables other than lists: pydantic would read them to the end, if they have one."""
    left, seen = [("", raw)], set()
    while left:
        where, value = left.pop()
        if id(value) in seen or isinstance(value, (str, bytes, set, frozenset, BaseModel)):
            continue
        seen.add(id(value))
        if isinstance(value, Mapping):
            left += [
                (f"{where}.{key}" if isinstance(key, str) else where, value[key]) for key in value
            ]
        elif isinstance(value, (list, tuple)):
            left += [(f"{where}[{i}]", item) for i, item in enumerate(value)]
        elif isinstance(value, Iterable):
            place = where.lstrip(".")[:200] or "configuration"
            raise InvalidConfig(f"{source}: {place}: is a {type(value).__name__}; give a list")


def overridden(raw: dict[str, Any], environ: Mapping[str, str]) -> dict[str, Any]:
    """Return a configuration with `OYER_…` variables over it; their values are YAML.

    A variable that names no section of the configuration is ignored.

    Raises:
        InvalidConfig: a variable is not YAML, names a key inside a value without keys, or sets the
            same key as another variable.
    """
    merged = dict(raw)
    seen: dict[str, str] = {}
    for variable in sorted(environ):
        section, *keys = variable.removeprefix(_PREFIX).lower().split("__")
        if not variable.startswith(_PREFIX) or section not in RewardConfig.model_fields:
            continue
        if (twin := seen.setdefault(variable.lower(), variable)) != variable:
            raise InvalidConfig(f"{variable}: sets the same key as {twin}; unset one of them")
        place = merged
        for key in [section, *keys][:-1]:
            inner = place.get(_spelling(place, key)) or {}
            if not isinstance(inner, dict):
                raise InvalidConfig(
                    f"{variable}: {key!r} holds no keys to override; set its whole value as YAML"
                )
            place[_spelling(place, key)] = inner = dict(inner)
            place = inner
        place[_spelling(place, [section, *keys][-1])] = _value(variable, environ[variable])
    return merged


def _value(variable: str, text: str) -> Any:
    from oyer.config.yaml_text import read_yaml

    try:
        return read_yaml(text)
    except ValueError as error:
        raise InvalidConfig(
            f"{variable}: its value is not YAML ({error}); put quotes around a text with special"
            " characters"
        ) from error


def _spelling(place: dict[str, Any], key: str) -> str:
    """Return a key as the file spells it: variables are case-insensitive."""
    return next((name for name in place if str(name).lower() == key), key)


def _read(path: Path, source: str) -> dict[str, Any]:
    import tomllib

    from oyer.config.yaml_text import read_yaml

    try:
        text = path.read_text(encoding="utf-8")
        raw = tomllib.loads(text) if path.suffix == ".toml" else read_yaml(text)
    except OSError as error:
        raise InvalidConfig(f"{source}: {error.strerror}; give a file that exists") from error
    except RecursionError as error:
        raise InvalidConfig(f"{source}: is not readable: it nests too deep") from error
    except ValueError as error:
        raise InvalidConfig(f"{source}: is not readable: {error}") from error
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise InvalidConfig(f"{source}: holds no keys; it starts with e.g. `judges:`")
    return raw
