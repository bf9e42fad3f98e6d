"""`oyer length list`: the length methods and their parameters."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from oyer.cli import options
from oyer.cli.output import console, print_json

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from oyer.tasks.lengths.method import Method

app = typer.Typer(no_args_is_help=True, help="Look at the length methods.")


@app.callback()
def _group() -> None:
    """Keep `list` a command of its own while it is the only one."""


@app.command("list")
def list_methods(
    method: Annotated[str | None, typer.Argument(help="One method, with its parameters.")] = None,
    as_json: options.AsJson = False,
) -> None:
    """List the length methods, or the parameters of one.

    Example: `oyer length list median_band`
    """
    from oyer.tasks.lengths import catalogue

    chosen = [catalogue.find(method)] if method else list(catalogue.METHODS.values())
    if as_json:
        for one in chosen:
            print_json(_described(one))
        return
    from rich.markup import escape
    from rich.table import Table

    table = Table("method", "values", "summary")
    for one in chosen:
        table.add_row(one.name, one.kind, escape(one.summary))
    console.print(table, highlight=False)
    if method:
        described = _described(chosen[0])
        console.print(f"{described['source']}; needs {', '.join(described['needs'])}", markup=False)
        table = Table("parameter", "default", "meaning")
        for name, entry in described["parameters"].items():
            default = "required" if entry["required"] else escape(str(entry["default"]))
            table.add_row(name, default, escape(entry["meaning"]))
        console.print(table, highlight=False)


def _described(method: "Method") -> dict[str, Any]:
    return {
        "method": method.name,
        "values": method.kind,
        "summary": method.summary,
        "needs": sorted(method.needs),
        "source": method.paper,
        "parameters": {name: _field(field) for name, field in method.params.model_fields.items()},
    }


def _field(field: "FieldInfo") -> dict[str, Any]:
    from pydantic_core import to_jsonable_python

    required = field.is_required()
    default = None if required else field.get_default(call_default_factory=True)
    return {
        "required": required,
        "default": to_jsonable_python(default),
        "meaning": " ".join((field.description or "").split()),
    }
