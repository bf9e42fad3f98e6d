"""`oyer length`: lists the length methods, and plots them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from oyer.cli.support import options
from oyer.cli.support.output import console, notes, print_json
from oyer.protocol.errors import InvalidInput

if TYPE_CHECKING:
    from oyer.config.length_methods.method import Method

app = typer.Typer(
    no_args_is_help=True,
    help="List and plot length, verbosity and repetition methods.",
)


@app.command("list")
def list_methods(
    method: Annotated[
        str | None, typer.Argument(help="Print one method with its parameters.")
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """List the methods and the fields that they need, or print one in full.

    Example: `oyer length list median_band`
    """
    from oyer.config.length_methods import catalogue

    names = sorted(catalogue.METHODS) if method is None else [method]
    chosen = [catalogue.find(name) for name in names]
    if as_json:
        print_json([_facts(one) for one in chosen])
    elif method is None:
        for one in chosen:
            _print_lines(one)
    else:
        _print_one(chosen[0])


@app.command("plot")
def plot(
    method: Annotated[str, typer.Argument(help="A method that `oyer length list` prints.")],
    param: Annotated[
        list[str] | None, typer.Option("--param", help="A parameter as key=value; may be repeated.")
    ] = None,
    max_length: Annotated[
        int | None, typer.Option("--max-length", min=2, help="Maximum length to plot.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Image file to write: .png, .svg or .pdf; needs oyer[plot]."),
    ] = None,
) -> None:
    """Plot a method's values over length, in the terminal or as an image.

    One group has a correct and an incorrect row of each length; targets, histories and references
    are half the maximum length.

    Example: `oyer length plot soft_overlong --param max_len=4096 --param cache_len=1024`
    """
    from oyer.cli.views.curves import curves
    from oyer.cli.views.plots import as_picture, as_text

    drawn = curves(method, dict(_param(text) for text in param or []), max_length)
    if out is None:
        typer.echo(as_text(drawn))
    else:
        as_picture(drawn, out)
        notes.print(f"wrote {out}", highlight=False, markup=False, soft_wrap=True)


def _param(text: str) -> tuple[str, Any]:
    """Parse `key=value`, with the value in YAML."""
    from oyer.config.yaml_text import read_yaml

    key, equals, value = text.partition("=")
    if not key or not equals:
        raise InvalidInput(f"--param {text!r}: must be key=value, e.g. max_len=4096")
    try:
        return key, read_yaml(value)
    except ValueError as error:
        raise InvalidInput(f"--param {text!r}: its value is not YAML; put it in quotes") from error


def _facts(method: "Method") -> dict[str, Any]:
    from pydantic_core import to_jsonable_python

    from oyer.cli.support.field_docs import field_docs

    docs = field_docs(method.params)
    return {
        "method": method.name,
        "kind": method.kind,
        "summary": method.summary,
        "needs": sorted(method.needs),
        "uses": sorted(method.uses),
        "range": method.range,
        "gate": method.gate,
        "paper": method.paper,
        "parity": method.parity,
        "params": {
            name: {
                "default": None
                if field.is_required()
                else to_jsonable_python(field.get_default(call_default_factory=True)),
                "required": field.is_required(),
                "help": docs.get(name),
            }
            for name, field in method.params.model_fields.items()
        },
    }


def _print_lines(method: "Method") -> None:
    needs = ", ".join(sorted(method.needs)) or "depends on its parameters"
    console.print(f"[bold]{method.name}[/] ({method.kind}; needs {needs})", highlight=False)
    params = ", ".join(method.params.model_fields) or "none"
    for line in (method.summary, f"parameters: {params}", f"from: {method.paper}"):
        console.print(f"    {line}", highlight=False, markup=False, soft_wrap=True)


def _print_one(method: "Method") -> None:
    facts = _facts(method)
    params = facts.pop("params")
    for name, value in facts.items():
        shown = ", ".join(value) if isinstance(value, list) else value
        console.print(f"{name:8} {shown or 'none'}", highlight=False, markup=False)
    for name, fact in params.items():
        default = "required" if fact["required"] else f"default {fact['default']}"
        console.print(f"  {name} ({default}): {fact['help']}", highlight=False, markup=False)
