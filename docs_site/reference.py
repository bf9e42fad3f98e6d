"""Writes docs/reference, docs/lengths.md and oyer.example.yaml: `python -m docs_site.reference`.

`pages()` returns what the files hold, from the code; tests/docs compares both.
"""

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from docs_site import lengths
from oyer.cli.support.example_config import example
from oyer.manager import RewardManager
from oyer.server.app import create_app

DOCS = Path(__file__).parents[1] / "docs"

CONFIGURATION = """\
# Configuration keys

One YAML or TOML file configures trainers and workers, or the same keys as a dict: `RewardManager(RewardConfig.model_validate(keys))`. The text below is a configuration with every section; `oyer config` prints it, and `oyer config --minimal` prints a short one to start from.

`api_key_env` is the *name* of an environment variable of the workers; the key itself never appears in a message, a row or a log line. `OYER_<SECTION>__<KEY>` in the environment overrides the file, e.g. `OYER_BROKER__URL`. Commands without `--config` use the file that `OYER_CONFIG` names, else `./oyer.yaml`. Keys of length methods: [Lengths](../lengths.md).

```yaml
{example}```
"""

CLI = """\
# Command line

Every command has `--help` with an example, and commands with output for programs have `--json`. An error is printed on one line, with exit code 1; a wrong option and a missing extra exit with 2. `oyer score` exits with 3 if rewards are written but judging failed for some rollouts, `oyer rubric try` with 3 if the reply has no score, and `oyer worker` with 78 if the record does not have this release's schema.

"""

HTTP = """\
# HTTP

`oyer serve` serves these routes; `GET /openapi.json` is their OpenAPI schema, and `GET /docs` a page of it. Bodies and answers are JSON. With `--token-env`, a request needs the header `Authorization: Bearer …`. How long a client may wait: [Time limits](../trainers/index.md#time-limits-over-http).

"""


def pages() -> dict[Path, str]:
    """Return the generated texts by file."""
    folder = DOCS / "reference"
    return {
        folder / "configuration.md": CONFIGURATION.format(example=example()),
        folder / "cli.md": CLI + _commands(),
        folder / "http.md": HTTP + http_sections(_openapi()),
        DOCS / "lengths.md": lengths.page(),
        DOCS.parent / "oyer.example.yaml": example(),
    }


def _commands() -> str:
    """Return typer's documentation of the commands, each with its whole first sentence in lists."""
    argv = [sys.executable, "-m", "typer", "oyer.cli", "utils", "docs", "--name", "oyer"]
    text = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    sections = re.split(r"^(?=#+ `)", text, flags=re.MULTILINE)[1:]
    about = {
        found[1]: found[2].split("\n\n")[0]
        for section in sections
        if (found := re.match(r"#+ `(.+?)`\n\n(.*)", section, re.DOTALL))
    }
    return "\n\n".join(_with_sentences(section, about).strip() for section in sections[1:]) + "\n"


def _with_sentences(section: str, about: Mapping[str, str]) -> str:
    """Replace the shortened sentences in a command's list of subcommands."""
    command = section.split("`")[1]

    def whole(found: re.Match[str]) -> str:
        sentence = " ".join(about[f"{command} {found[1]}"].split()).split(". ")[0].rstrip(".")
        return f"* `{found[1]}`: {sentence}."

    head, marker, listed = section.partition("**Commands**:\n\n")
    return head + marker + re.sub(r"^\* `([\w-]+)`: .*$", whole, listed, flags=re.MULTILINE)


def _openapi() -> dict[str, Any]:
    config = {"length": [{"method": "median_band"}], "broker": {"url": "redis://127.0.0.1:6379/0"}}
    with RewardManager(config) as manager:
        return create_app(manager).openapi()


def http_sections(schema: Mapping[str, Any]) -> str:
    """Return a section for each route, then for each error and each type of its own."""
    parts = []
    errors: dict[str, str] = {}
    models = schema["components"]["schemas"]
    named: set[str] = set()
    for path, methods in schema["paths"].items():
        for method, route in methods.items():
            parts += [f"## {method.upper()} {path}", route["description"]]
            rows = {one["name"]: one for one in route.get("parameters", [])}
            if rows:
                parts.append(_table("query", rows))
            if "requestBody" in route:
                model = _model_of(route["requestBody"])
                named.add(model)
                parts.append(
                    _table("field of the body", models[model]["properties"], models[model])
                )
            parts.append(_answer(route["responses"]["200"], models, named))
            errors |= {
                code: answer["description"]
                for code, answer in route["responses"].items()
                if code not in ("200", "503") or "Retry" in answer["description"]
            }
    parts.append('## Errors\n\nThe body is `{"error": …}`, with the field and the fix.')
    parts.append(_rows("status", {f"`{code}`": text for code, text in sorted(errors.items())}))
    for name in sorted(_referenced(schema, named)):
        parts += [f"## {name}", models[name]["description"]]
        parts.append(_table("field", models[name]["properties"], models[name]))
    return "\n\n".join(part for part in parts if part) + "\n"


def _answer(answer: Mapping[str, Any], models: Mapping[str, Any], named: set[str]) -> str:
    schema = answer["content"]["application/json"]["schema"]
    if "$ref" not in schema:
        return f"Answer: {_type(schema)}."
    model = _model_of(answer)
    named.add(model)
    return _table("field of the answer", models[model]["properties"], models[model])


def _model_of(body: Mapping[str, Any]) -> str:
    return str(body["content"]["application/json"]["schema"]["$ref"]).rpartition("/")[2]


def _referenced(schema: Mapping[str, Any], named: set[str]) -> set[str]:
    """Return the models that only other models refer to."""
    refs = re.findall(r"#/components/schemas/(\w+)", str(schema["components"]))
    return set(refs) - named


def _table(heading: str, rows: Mapping[str, Any], model: Mapping[str, Any] | None = None) -> str:
    required = (model or {}).get("required", [])
    cells = {}
    for name, field in rows.items():
        default = field.get("default")
        facts = [_type(field.get("schema", field))]
        if name in required:
            facts.append("required")
        elif default is not None:
            facts.append(f"default `{json.dumps(default)}`")
        about = " ".join(field.get("description", "").split())
        cells[f"`{name}`"] = f"{', '.join(facts)} | {about}"
    head = f"| {heading} | type | |\n|---|---|---|"
    return "\n".join([head, *(f"| {name} | {cell} |" for name, cell in cells.items())])


def _rows(heading: str, rows: Mapping[str, str]) -> str:
    lines = [f"| {key} | {' '.join(text.split())} |" for key, text in rows.items()]
    return "\n".join([f"| {heading} | |", "|---|---|", *lines])


def _type(schema: Mapping[str, Any]) -> str:
    """Return a JSON type in words."""
    if "$ref" in schema:
        name = str(schema["$ref"]).rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_type(one) for one in schema["anyOf"]))
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    if "const" in schema:
        return f"`{schema['const']}`"
    return str(schema.get("type", "any"))


if __name__ == "__main__":
    for file, text in pages().items():
        file.write_text(text, encoding="utf-8")
    lengths.draw(DOCS / "images" / "lengths")
