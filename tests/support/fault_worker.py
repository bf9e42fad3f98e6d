"""One worker process, which a test starts, signals and kills."""

import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from oyer.local.worker_commands import worker_argv
from tests.support import services
from tests.support.paths import ROOT


class Worker:
    """One worker process."""

    def __init__(
        self,
        kind: str,
        name: str,
        environ: dict[str, str],
        log: Path,
        patch: Sequence[str],
        host: Sequence[str],
        concurrency: int | None,
        loglevel: str,
    ) -> None:
        self.kind = kind
        self.name = name
        self.log = log
        argv = worker_argv(kind, name=name, concurrency=concurrency, loglevel=loglevel)
        if patch:
            module = argv.index("-m") + 1
            argv[module : module + 1] = ["tests.support.patched_worker", *patch]
            # -P keeps the working folder off the path.
            environ = {**environ, "PYTHONPATH": str(ROOT)}
        argv = [*host, *argv]
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                argv,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=ROOT,
                preexec_fn=lambda: services.die_with_parent(signal.SIGKILL),  # noqa: PLW1509 - one libc call, no lock
            )

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self.process.poll() is None

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process."""
        self.process.send_signal(number)

    def kill(self) -> None:
        """End it at once."""
        self.process.kill()
        self.process.wait()

    def output(self) -> str:
        """Return what it logged."""
        return self.log.read_text(errors="replace")
