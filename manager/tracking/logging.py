"""Logs a batch's metrics and a sample of its rollouts; the option `track` of the adapters."""

import logging
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from oyer.manager.tracking.libraries import LIBRARIES, imported, tracker_of
from oyer.manager.tracking.metrics import PREFIX, batch_metrics
from oyer.manager.tracking.samples import sample_table
from oyer.manager.training import is_first_process
from oyer.protocol.batch import TRAINING_SPLITS
from oyer.protocol.batch_result import MAX_SAMPLED_ROWS
from oyer.protocol.errors import InvalidInput

if TYPE_CHECKING:
    from oyer.manager.batch import RewardBatch

_logger = logging.getLogger(__name__)

SAMPLE = 8
"""Rollouts in the table, unless the caller says otherwise."""

MAX_SAMPLE = MAX_SAMPLED_ROWS
"""Most rollouts in the table: a result brings the judges' replies for no more."""

_lock = threading.Lock()
"""Adapters may collect batches in several threads, and the libraries' runs are shared."""


def log(
    batch: "RewardBatch",
    *,
    to: Any,
    step: int | None = None,
    sample: int = SAMPLE,
    prefix: str = PREFIX,
) -> None:
    """Log the metrics of a batch and a table of some of its rollouts to a tracker.

    The table is `<prefix>samples`: prompt, response, reward, status, every component, and the
    judges' replies as the reason. The same rollouts are chosen wherever the batch is logged.

    Args:
        to: `wandb`, `mlflow`, `tensorboard` or `trackio`, which log to the active run of this process
            (TensorBoard: to the folder in `TENSORBOARD_LOGGING_DIR`, by default below `runs/`); or the
            library's own run or writer.
        step: training step; W&B gets it as the metric `oyer/step`.
        sample: rollouts in the table, 0 to `MAX_SAMPLE`; 0 logs no table.
        prefix: of all names, e.g. `oyer/eval/`.

    Raises:
        InvalidInput: `to` is not a tracker, its library is not installed, it has no active run, or
            `sample` is out of range.
    """
    _check_sample(sample)
    name, run = tracker_of(to)
    table = sample_table(batch, sample, step) if sample else None
    with _lock:
        LIBRARIES[name](run, batch_metrics(batch, prefix), f"{prefix}samples", table, step)


def _check_sample(sample: Any) -> None:
    if not isinstance(sample, int) or isinstance(sample, bool) or not 0 <= sample <= MAX_SAMPLE:
        raise InvalidInput(f"sample: is {sample!r:.40}; give a number from 0 to {MAX_SAMPLE}")


@dataclass(frozen=True)
class Tracking:
    """The option `track` of an adapter: logs its batches, in the training's first process only."""

    to: Any
    """See `log`; None logs nothing."""

    def __post_init__(self) -> None:
        """Check the tracker before anything is judged.

        Raises:
            InvalidInput: it is not a tracker, or its library is not installed.
        """
        if self.to is not None:
            try:
                name, run = tracker_of(self.to)
                if run is None:
                    imported(name)
            except InvalidInput as error:
                raise InvalidInput(str(error).replace("to:", "track:", 1)) from error

    def log(self, batch: "RewardBatch", *, step: int | None, split: str | None) -> None:
        """Log a batch; evaluations under `oyer/eval/`. The training goes on if the tracker fails.

        Raises:
            InvalidInput: the library has no active run in this process.
        """
        if self.to is None or not is_first_process():
            return
        prefix = PREFIX if split in TRAINING_SPLITS else f"{PREFIX}eval/"
        try:
            log(batch, to=self.to, step=step, prefix=prefix)
        except InvalidInput:
            raise
        except Exception as error:  # noqa: BLE001 - whatever a tracker's library raises
            _logger.warning("batch %s was not logged to %r: %r", batch.id, self.to, error)
