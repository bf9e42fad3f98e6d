"""Writes metrics and a table with a tracker's own library, which is imported on first use."""

import contextlib
import importlib
import os
import re
import weakref
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from oyer.manager.tracking.samples import Table
from oyer.protocol.errors import InvalidInput

Metrics = Mapping[str, float]
Writer = Callable[[Any, Metrics, str, Table | None, int | None], None]
"""Called with the run or None, the metrics, the table's name, the table, and the step."""

PACKAGES = {
    "wandb": "wandb",
    "mlflow": "mlflow",
    "tensorboard": "tensorboard tensorboardX",
    "trackio": "trackio",
}
"""What to install for each tracker."""

_NOT_IN_MLFLOW = re.compile(r"[^\w\-. :/]")
"""Characters that MLflow refuses in the name of a metric."""


def imported(tracker: str) -> Any:
    """Import a tracker's library; trainers use PyTorch's for TensorBoard, which needs both packages.

    Raises:
        InvalidInput: it is not installed; the message has the command that installs it.
    """
    if tracker == "tensorboard":
        with contextlib.suppress(ImportError):
            return importlib.import_module("torch.utils.tensorboard")
    try:
        return importlib.import_module("tensorboardX" if tracker == "tensorboard" else tracker)
    except ImportError as error:
        raise InvalidInput(
            f"to: {tracker} cannot be imported ({error}); run `pip install {PACKAGES[tracker]}`"
        ) from error


def tracker_of(to: Any) -> tuple[str, Any]:
    """Return the name of the tracker of `to`, and its run if `to` is one.

    Args:
        to: a name in `LIBRARIES`, the library's module, or its own run or writer.

    Raises:
        InvalidInput: it is none of them.
    """
    if isinstance(to, str) and to in LIBRARIES:
        return to, None
    module = getattr(to, "__name__", "") if not isinstance(to, str) else ""
    if module in LIBRARIES:
        return module, None
    home = type(to).__module__
    if re.match(r"(torch\.utils\.)?tensorboard", home, re.IGNORECASE):
        return "tensorboard", to
    if (name := home.partition(".")[0]) in LIBRARIES:
        return name, to
    raise InvalidInput(
        f"to: {to!r:.60} is not a tracker; give {', '.join(LIBRARIES)}, or a run or writer of one of"
        " them"
    )


def _no_run(tracker: str, start: str) -> InvalidInput:
    return InvalidInput(
        f"to: {tracker} has no active run in this process; call {start} first, or pass the run"
    )


_wandb_rows: "weakref.WeakKeyDictionary[Any, int]" = weakref.WeakKeyDictionary()
"""W&B's row that the last metrics of a run were put into."""


def _to_wandb(run: Any, metrics: Metrics, name: str, table: Table | None, step: int | None) -> None:
    """Add to the row that the trainer's next `log` commits, so that its steps stay as they are.

    W&B drops what is logged for an earlier step than its own counter, which trainers set. The step is
    therefore a metric, which W&B draws the others over.
    """
    wandb = imported("wandb")
    run = run if run is not None else wandb.run
    if run is None:
        raise _no_run("wandb", "wandb.init(…)")
    if run not in _wandb_rows:
        run.define_metric("oyer/step")
        run.define_metric("oyer/*", step_metric="oyer/step")
    elif _wandb_rows[run] == run.step:
        run.log({}, commit=True)  # else this batch would replace the last one
    found: dict[str, Any] = dict(metrics)
    if step is not None:
        found["oyer/step"] = step
    if table is not None:
        found[name] = wandb.Table(columns=table.columns, data=table.rows)
    _wandb_rows[run] = run.step
    run.log(found, commit=False)


def _to_mlflow(
    run: Any, metrics: Metrics, name: str, table: Table | None, step: int | None
) -> None:
    mlflow = imported("mlflow")
    run = run if run is not None else mlflow.active_run()
    if run is None:
        raise _no_run("mlflow", "mlflow.start_run()")
    client, run_id = mlflow.MlflowClient(), run.info.run_id
    now_ms = mlflow.utils.time.get_current_time_millis()
    entities = importlib.import_module("mlflow.entities")
    rows = [
        entities.Metric(_NOT_IN_MLFLOW.sub("_", key), value, now_ms, step or 0)
        for key, value in metrics.items()
    ]
    client.log_batch(run_id, metrics=rows)
    if table is not None:
        file = f"{name}_{step or 0:08d}.json"
        client.log_dict(run_id, {"columns": table.columns, "data": table.rows}, file)


@cache
def _tensorboard_writer(folder: str | None) -> Any:
    """Return this process's writer."""
    return imported("tensorboard").SummaryWriter(folder)


def _to_tensorboard(
    run: Any, metrics: Metrics, name: str, table: Table | None, step: int | None
) -> None:
    if run is None:
        run = _tensorboard_writer(os.environ.get("TENSORBOARD_LOGGING_DIR"))
    for key, value in metrics.items():
        run.add_scalar(key, value, step)
    if table is not None:
        run.add_text(name, _markdown(table), step)
    run.flush()


def _markdown(table: Table) -> str:
    lines = [table.columns, ["---"] * len(table.columns), *table.rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def _cell(value: Any) -> str:
    text = "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", "<br>")


def _to_trackio(
    run: Any, metrics: Metrics, name: str, table: Table | None, step: int | None
) -> None:
    trackio = imported("trackio")
    run = run if run is not None else trackio.context_vars.current_run.get()
    if run is None:
        raise _no_run("trackio", "trackio.init(project=…)")
    found: dict[str, Any] = dict(metrics)
    if table is not None:
        rows = [["" if cell is None else cell for cell in row] for row in table.rows]
        found[name] = trackio.Table(columns=table.columns, data=rows)
    run.log(found, step=step)


LIBRARIES: dict[str, Writer] = {
    "wandb": _to_wandb,
    "mlflow": _to_mlflow,
    "tensorboard": _to_tensorboard,
    "trackio": _to_trackio,
}
"""The supported trackers by name."""
