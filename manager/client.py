"""RewardManager: submits batches and returns futures of their rewards."""

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from numbers import Integral
from pathlib import Path
from types import TracebackType
from typing import Any, Self, Unpack, get_args

from oyer.config.loading import load_config, validate
from oyer.config.reward import RewardConfig
from oyer.local import backend as local
from oyer.local import state
from oyer.manager import validation
from oyer.manager.backend.connection import Broker, backend
from oyer.manager.backend.poller import poller
from oyer.manager.backend.prepare import prepare
from oyer.manager.future import RewardFuture
from oyer.manager.requirements import shown
from oyer.manager.score import Score
from oyer.manager.streaming import stream
from oyer.manager.streaming.identity import ScoreOptions
from oyer.manager.streaming.pending import Pending, PendingScores
from oyer.manager.training import training_name
from oyer.manager.validation import is_text
from oyer.protocol.batch import TRAINING_SPLITS, Priority, default_priority
from oyer.protocol.content import images_as_text
from oyer.protocol.errors import BatchCancelled, InvalidConfig, InvalidInput
from oyer.protocol.rollout import Message, Rollout
from oyer.telemetry import tracing


class RewardManager:
    """Submits rollouts to a backend and returns futures of their rewards.

    Thread-safe; use one per configuration. Managers with different judges or length methods can
    share a broker, because each batch carries its own plan.
    """

    def __init__(self, config: RewardConfig | Mapping[str, Any]) -> None:
        """Use a running backend.

        Raises:
            InvalidConfig: a key is wrong, nothing would be computed, or no broker is named.
        """
        self.config = _checked(config)
        if not self.config.judges and not self.config.length:
            raise InvalidConfig("`judges` and `length` are both empty; configure one of them")
        tracing.start(self.config.tracing, "oyer-trainer")
        self._embedded: local.EmbeddedBackend | None = None
        self._origin: RewardManager | None = None
        url = self.config.broker.url or state.running_broker()
        self._broker = Broker.of(url, self.config.broker)
        # Imports Celery now, so that the first `submit` does not wait for it.
        backend(*self._broker)
        self._join_training(training_name() or uuid.uuid4().hex)

    def _join_training(self, training: str) -> None:
        """Share groups with the managers of one training, in any process."""
        self.training = training
        self._stream = stream.Stream(self.config, self._broker, training)

    @classmethod
    def from_file(cls, path: str | Path) -> "RewardManager":
        """Use a running backend, configured by a YAML or TOML file."""
        return cls(load_config(path))

    @classmethod
    def local(
        cls, config: RewardConfig | Mapping[str, Any] | str | Path, **options: Any
    ) -> "RewardManager":
        """Start an embedded backend and use it; `close`, or the end of `with`, stops it.

        Args:
            config: a configuration or its path.
            options: see `EmbeddedBackend`.

        Raises:
            BackendUnavailable: a process of the backend did not start; the message has its output.
        """
        if isinstance(config, (str, Path)):
            config = load_config(config)
        embedded = local.EmbeddedBackend(_checked(config), **options)
        try:
            manager = cls(embedded.config)
        except BaseException:
            embedded.close()
            raise
        manager._embedded = embedded
        return manager

    @classmethod
    def of(
        cls, given: "RewardManager | RewardConfig | Mapping[str, Any] | str | Path"
    ) -> "RewardManager":
        """Return a manager as it is, or use a running backend by a configuration or its path."""
        if isinstance(given, RewardManager):
            return given
        return cls.from_file(given) if isinstance(given, (str, Path)) else cls(given)

    def under(self, config: RewardConfig) -> "RewardManager":
        """Return a manager on the same backend with a different configuration."""
        broker = config.broker.model_copy(update={"url": self._broker.url})
        manager = RewardManager(config.model_copy(update={"broker": broker}))
        # Keeps this manager alive, because its embedded backend ends with it.
        manager._origin = self
        manager._join_training(self.training)
        return manager

    def submit(
        self,
        rollouts: Sequence[Rollout],
        *,
        run: str = "default",
        step: int | None = None,
        split: str | None = None,
        priority: Priority | None = None,
    ) -> RewardFuture:
        """Submit a batch and return at once.

        Args:
            rollouts: the batch; a group's rollouts must be in one batch.
            run: name of the training run in the record.
            step: training step, for the record.
            split: purpose of the rollouts in the record, e.g. `eval`; None is training.
            priority: `background` does not delay training; `interactive` goes first. All of them
                progress. None: `training` if `split` is None or `train`, else `background`.

        Raises:
            InvalidRollout: names the row and field that is wrong; nothing was submitted.
            BackendUnavailable: the broker cannot be reached; nothing was submitted.
        """
        check_place(run, step, split, priority)
        rollouts = self._without_unused_images(rollouts)
        sizes_bytes = validation.check(rollouts, self.config)
        if split in TRAINING_SPLITS:
            validation.check_groups(rollouts, self.config)
        priority = priority or default_priority(split)
        broker = backend(*self._broker)
        prepared = prepare(
            rollouts,
            self.config,
            run=run,
            step=step,
            split=split,
            priority=priority,
            sizes_bytes=sizes_bytes,
            now_s=broker.now_s(),
        )
        broker.submit(prepared, self.config.broker.max_backlog_bytes)
        return RewardFuture.of(prepared, self.config, self._broker, rollouts)

    def score(self, rollout: Rollout, **options: Unpack[ScoreOptions]) -> Pending[Score]:
        """Submit one rollout as soon as it is generated; await its score, or wait for it.

        Rollouts that arrive close together share a batch. With `group_size`, the rollouts of a
        group are collected by (run, group_id, group_size) from all processes and hosts of the
        training. Each is judged at once; length terms are computed when the group is complete or
        overdue. Processes belong to one training if they pass the same `run`; without `run`, if
        they have the same launcher (`training.training_name`) or copies of one manager.

        Raises:
            InvalidRollout: names the field that is wrong; nothing was submitted.
        """
        _check_place(options)
        return self._stream.score(*self._without_unused_images([rollout]), **options)

    def score_many(
        self, rollouts: Sequence[Rollout], **options: Unpack[ScoreOptions]
    ) -> PendingScores:
        """Submit several rollouts, as `score` does; await their scores in order.

        Without `group_size`, all rollouts of a group must be in this call.

        Raises:
            InvalidRollout: names the row and field that is wrong; nothing was submitted.
        """
        _check_place(options)
        return self._stream.score_many(self._without_unused_images(rollouts), **options)

    def close_groups(
        self,
        group_ids: Iterable[str | int],
        *,
        absent: int | Iterable[str] | None = None,
        prompts: Iterable[str | list[Message]] | None = None,
        **options: Unpack[ScoreOptions],
    ) -> Pending[None]:
        """Say which rollouts of groups will not come, so that the others do not wait for them.

        May be called by any process, more than once, before or after the groups' rollouts. A group
        is compared at once, under its `on_group_timeout`, when no further rollout will come. A
        rollout that comes nevertheless is scored as one that is late.

        Args:
            group_ids: the groups.
            absent: how many rollouts of each group will not come, or a name for each of them; of
                each name, one rollout is absent, however often it is named. None: no further rollout
                will come, except those that this process has submitted before. Give a number or names
                if other processes may have rollouts on their way.
            prompts: of the groups, if their rollouts were submitted with `one_prompt`.
            options: those that the groups' rollouts are submitted with; `group_size` is required.

        Returns:
            Done once the groups know. It may be ignored.

        Raises:
            InvalidInput: names the argument that is wrong.
        """
        _check_place(options)
        if prompts is not None and not self._takes_images:
            prompts = [images_as_text(prompt) for prompt in prompts]
        return self._stream.close_groups(group_ids, absent, prompts, options)

    @property
    def _takes_images(self) -> bool:
        return any(judge.images != "placeholder" for judge in self.config.judges)

    def _without_unused_images(self, rollouts: Sequence[Rollout]) -> Sequence[Rollout]:
        """Replace images by placeholders if no judge takes them, since they may be megabytes."""
        if self._takes_images or not isinstance(rollouts, (list, tuple)):
            return rollouts
        return [
            replace(
                one,
                prompt=images_as_text(one.prompt),
                response=images_as_text(one.response),
            )
            if isinstance(one, Rollout) and not _is_text_only(one)
            else one
            for one in rollouts
        ]

    def close(self) -> None:
        """Stop the embedded backend, if this manager started one.

        Pending batches end with `BatchCancelled` and are recorded as cancelled. Calls in flight are
        finished first, and their cost is counted.
        """
        embedded, self._embedded = self._embedded, None
        if embedded is None:
            return
        try:
            self._cancel_pending(embedded.owns_broker)
        finally:
            embedded.close()
        # Other threads may have submitted rollouts meanwhile, which would wait for ever.
        self._cancel_pending(embedded.owns_broker)

    def _cancel_pending(self, owns_broker: bool) -> None:
        if owns_broker:
            error = BatchCancelled("the embedded backend was closed before the batch ended")
            stream.fail_all(self._broker, error)
            poller(*self._broker).fail_all(error)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        config = self.config.model_dump(mode="json")
        config["broker"]["url"] = self._broker.url
        return (_reopened, (config, self.training))


def _is_text_only(rollout: Rollout) -> bool:
    return isinstance(rollout.prompt, str) and isinstance(rollout.response, str)


def _reopened(config: Mapping[str, Any], training: str) -> RewardManager:
    """Open a pickled manager in another process of the same training."""
    manager = RewardManager(config)
    manager._join_training(training)
    return manager


def _checked(config: RewardConfig | Mapping[str, Any]) -> RewardConfig:
    if isinstance(config, RewardConfig):
        return config
    return validate(dict(config) if isinstance(config, Mapping) else config)


def _check_place(options: ScoreOptions) -> None:
    others = [options.get(name) for name in ("step", "split", "priority")]
    check_place(options.get("run", "default"), *others)


def check_place(run: object, step: object, split: object = None, priority: object = None) -> None:
    """Check the run, step, split and priority of a batch.

    Raises:
        InvalidInput: names the argument and the fix.
    """
    if not isinstance(run, str) or not 0 < len(run) <= 200 or not is_text(run):
        raise InvalidInput(f"run: is {shown(run)}; give a name of 1 to 200 characters")
    if step is not None and (
        not isinstance(step, Integral) or isinstance(step, bool) or not 0 <= int(step) < 2**31
    ):
        raise InvalidInput(f"step: is {shown(step)}; give a whole number from 0, or leave it out")
    if split is not None and (
        not isinstance(split, str) or not 0 < len(split) <= 100 or not is_text(split)
    ):
        raise InvalidInput(
            f"split: is {shown(split)}; give a name of 1 to 100 characters, e.g. `eval`, or leave"
            " it out for training"
        )
    if priority is not None and priority not in get_args(Priority):
        raise InvalidInput(
            f"priority: is {shown(priority)}; give interactive, training or background, or leave it"
            " out"
        )
