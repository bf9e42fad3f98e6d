"""`oyer status`: prints the current state of the backend."""

import dataclasses
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from oyer.cli.support import options
from oyer.cli.support.output import console, fail, notes, print_json
from oyer.protocol.errors import InvalidConfig, OyerError

if TYPE_CHECKING:
    from oyer.config.reward import RewardConfig
    from oyer.tasks.monitoring.backend_status import BackendStatus

EVERY_S = 2.0
"""Pause between two readings under `--watch`, in seconds."""

_SPEND_EVERY_S = 20.0
"""Pause between two database queries of spend, in seconds; they take longer than reading Redis."""


def status(
    config: options.Config = None,
    watch: Annotated[bool, typer.Option("--watch", help="Refresh every 2 s until Ctrl-C.")] = False,
    limit: Annotated[
        int, typer.Option("--limit", min=1, help="Number of batches to show, oldest first.")
    ] = 20,
    as_json: options.AsJson = False,
) -> None:
    """Print the current state of the backend: queues, workers, batches, calls and limits, spend.

    It is read from the broker, so `broker.url` alone is enough, e.g. on a trainer's host. Only the
    spend of runs without a budget is read from the record; if this host cannot reach the record, a
    `?` is printed with a note.

    `--json` prints one object, and with `--watch` one object per line for each refresh.

    Example: `oyer status --watch`
    """

    from oyer.config.loading import load_config
    from oyer.local.state import running_broker
    from oyer.protocol.redis_client import connect
    from oyer.tasks.monitoring.status_reader import read_status

    settings = load_config(config)
    url = settings.broker.url or running_broker()
    endpoints = {*settings.endpoints, *(judge.endpoint for judge in settings.judges)}
    spend = _Spend(settings)
    with connect(url, timeout_s=5) as client:

        def look() -> "BackendStatus":
            return spend.added_to(read_status(client, endpoints))

        if not watch:
            _show(look(), limit, as_json=as_json)
            if spend.problem and not as_json:
                notes.print(spend.problem, highlight=False, markup=False, soft_wrap=True)
        elif as_json or not console.is_terminal:
            _repeat(look, lambda seen: _show(seen, limit, as_json=as_json))
        else:
            _watch(look, limit)


def _show(seen: "BackendStatus", limit: int, *, as_json: bool) -> None:
    from oyer.cli.support.output import print_table
    from oyer.cli.views.status_tables import plain, tables

    if as_json:
        print_json(plain(seen, limit))
        return
    for table in tables(seen, limit):
        print_table(table)


def _watch(look: "Callable[[], BackendStatus]", limit: int) -> None:
    """Redraw the tables in place at each refresh."""
    from rich.console import Group
    from rich.live import Live

    from oyer.cli.views.status_tables import tables

    with Live(console=console, auto_refresh=False) as live:
        _repeat(look, lambda seen: live.update(Group(*tables(seen, limit)), refresh=True))


def _repeat(look: "Callable[[], BackendStatus]", show: "Callable[[BackendStatus], Any]") -> None:
    """Refresh until a signal, and retry while the broker is unreachable."""
    from oyer.cli.support.signals import stop_event
    from oyer.protocol.errors import BackendUnavailable

    stop = stop_event()
    show(look())
    while not stop.wait(EVERY_S):
        try:
            seen = look()
        except BackendUnavailable as error:
            fail(f"{error}; retrying in {EVERY_S:g} s")
        else:
            show(seen)


class _Spend:
    """The spend of runs without a budget, from the record, because Redis does not count it."""

    def __init__(self, settings: "RewardConfig") -> None:
        self._settings = settings
        self._known: dict[str, float] = {}
        self._read_at_s: dict[str, float] = {}
        self.problem = ""
        """Why the record was not read; empty if it was."""

    def added_to(self, seen: "BackendStatus") -> "BackendStatus":
        """Return the status with the spend that Redis does not count."""
        missing = [run.run for run in seen.runs if run.spent_usd is None]
        due_s = time.monotonic() - _SPEND_EVERY_S
        due = [run for run in missing if self._read_at_s.get(run, due_s) <= due_s]
        if due:
            self._read(due)
        runs = tuple(
            dataclasses.replace(run, spent_usd=self._known.get(run.run))
            if run.spent_usd is None
            else run
            for run in seen.runs
        )
        return dataclasses.replace(seen, runs=runs)

    def _read(self, runs: list[str]) -> None:
        from oyer.cli.support.database import existing
        from oyer.models import queries
        from oyer.models.engine import reading

        self._read_at_s |= dict.fromkeys(runs, time.monotonic())
        try:
            self._reachable()
            with existing(self._settings.store.url) as engine, reading(engine) as conn:
                self._known |= {run: queries.cost_of_run(conn, run) for run in runs}
        except OyerError as error:
            self.problem = f"spent: what Redis does not count is on record only, and {error}"

    def _reachable(self) -> None:
        """Refuse the default store URL if broker.url is set: the record is then on the workers' side."""
        store = self._settings.store
        if self._settings.broker.url and "url" not in store.model_fields_set:
            from oyer.models.engine import has_database

            if not has_database(store.url):
                raise InvalidConfig(
                    "store.url is not set here; run this where the workers' configuration is"
                )
