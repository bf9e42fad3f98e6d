"""The messages of a batch's chord, and how results are read."""

import base64
import json
from typing import Any

import pytest
import redis
from kombu import Producer
from redis.client import Pipeline

from oyer.config.reward import RewardConfig
from oyer.manager.backend.connection import Backend
from oyer.manager.backend.prepare import PreparedBatch, prepare
from oyer.protocol import names, redis_client
from oyer.protocol.measuring import measured
from oyer.protocol.measuring.measurements import read_measurements
from oyer.protocol.redis_client import RedisRefuses
from oyer.protocol.rollout import Rollout
from tests.manager.conftest import JUDGE, Workers

pytestmark = pytest.mark.filterwarnings(
    "ignore:Call to deprecated setex:DeprecationWarning"  # Celery 5.7 on redis-py 8
)

BAND = {"method": "median_band"}


def prepared(n: int = 10, **keys: Any) -> PreparedBatch:
    rollouts = [
        Rollout(prompt="secret prompt", response=f"r{i}", group_id=str(i), response_tokens=3)
        for i in range(n)
    ]
    config = RewardConfig.model_validate({"judges": [JUDGE], "length": BAND, **keys})
    return prepare(rollouts, config, run="r", step=None)


@pytest.fixture
def source(redis_url: str) -> Backend:
    return Backend(redis_url, 600)


def messages(workers: Workers, queue: str) -> list[dict[str, Any]]:
    """The messages of a queue, with their bodies decoded, in the order sent."""
    raw = workers.redis.lrange(queue, 0, -1)
    assert isinstance(raw, list)
    decoded = [json.loads(message) for message in reversed(raw)]
    for message in decoded:
        message["body"] = json.loads(base64.b64decode(message["body"]))
    return decoded


def test_the_judges_messages_of_a_batch_arrive_in_one_write(
    source: Backend, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes: list[int] = []
    send: Any = redis.Connection.send_packed_command

    def note(self: Any, command: Any, *args: Any, **kwargs: Any) -> Any:
        packed = command if isinstance(command, bytes) else b"".join(command)
        writes.append(packed.count(b"LPUSH"))
        return send(self, command, *args, **kwargs)

    monkeypatch.setattr(redis.Connection, "send_packed_command", note)
    source.submit(prepared(12))
    sent = len(messages(workers, names.JUDGE_QUEUE))
    assert sent >= 3
    assert max(writes) == sent + 1  # and the length task


def test_messages_of_which_a_write_broke_off_are_sent_one_by_one(
    source: Backend, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost: list[int] = []
    execute: Any = Pipeline.execute

    def break_off(self: Pipeline, *args: Any, **kwargs: Any) -> Any:
        names_sent = [command[0][0] for command in self.command_stack]
        if not lost and "LPUSH" in names_sent:
            lost.append(len(names_sent))
            raise redis.ConnectionError("Connection reset by peer")
        return execute(self, *args, **kwargs)

    submission = prepared()
    source.post(submission)
    monkeypatch.setattr(Pipeline, "execute", break_off)
    source.send(submission.manifest)
    assert lost == [4]
    judging = messages(workers, names.JUDGE_QUEUE)
    assert [message["body"][1]["chunk"] for message in judging] == [0, 1, 2]
    assert len(messages(workers, names.LENGTH_QUEUE)) == 1


def test_a_chord_has_a_task_for_each_chunk_and_one_for_the_lengths(
    source: Backend, workers: Workers
) -> None:
    submission = prepared()
    source.submit(submission)
    batch_id = submission.manifest.batch_id
    judging = messages(workers, names.JUDGE_QUEUE)
    assert [message["body"][1]["chunk"] for message in judging] == [0, 1, 2]
    assert {message["body"][1]["batch_id"] for message in judging} == {batch_id}
    assert {message["headers"]["task"] for message in judging} == {names.JUDGE_TASK}
    flow = json.dumps(["r", "training", [JUDGE["endpoint"]]])
    counts = [count for _, count in submission.manifest.chunks]
    assert [message["headers"]["oyer"] for message in judging] == [
        {"flow": flow, "calls": count} for count in counts
    ]
    [length] = messages(workers, names.LENGTH_QUEUE)
    assert length["headers"]["task"] == names.LENGTH_TASK
    assert workers.sent(names.COMBINE_QUEUE) == 0
    callback = length["body"][2]["chord"]
    assert callback["task"] == names.COMBINE_TASK
    assert callback["options"]["task_id"] == batch_id
    assert callback["options"]["queue"] == names.COMBINE_QUEUE


def test_without_length_methods_there_is_no_length_task(source: Backend, workers: Workers) -> None:
    source.submit(prepared(length=[]))
    assert workers.sent(names.LENGTH_QUEUE) == 0
    assert workers.sent(names.JUDGE_QUEUE) == 3


def test_payloads_are_stored_under_the_batch(source: Backend, workers: Workers) -> None:
    submission = prepared()
    source.submit(submission)
    batch_id = submission.manifest.batch_id
    assert workers.exchange.manifest(batch_id) == submission.manifest
    assert workers.exchange.columns(batch_id) == submission.columns
    assert len(workers.exchange.rollouts(batch_id, 0)) == submission.manifest.chunks[0][1]


def test_a_message_has_the_batch_id_and_no_text_of_the_batch(
    source: Backend, workers: Workers
) -> None:
    source.submit(prepared())
    for queue in names.QUEUES:
        for message in messages(workers, queue):
            assert "secret prompt" not in json.dumps(message)
            assert message["headers"]["argsrepr"] == message["headers"]["kwargsrepr"] == ""


def test_an_interrupted_submit_leaves_no_half_submitted_batch(
    source: Backend, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    submission = prepared()
    batch_id = submission.manifest.batch_id
    sent = Producer.publish

    def publish(self: Any, *arguments: Any, **options: Any) -> Any:
        done = sent(self, *arguments, **options)
        if options["routing_key"] == names.LENGTH_QUEUE:
            self._batch_local.current.flush()
            monkeypatch.undo()
            raise KeyboardInterrupt
        return done

    monkeypatch.setattr(Producer, "publish", publish)
    with pytest.raises(KeyboardInterrupt):
        source.submit(submission)
    assert workers.sent(names.JUDGE_QUEUE) == 3
    assert not workers.exchange.holds(batch_id)
    assert workers.exchange.backlog_bytes() == 0
    ending = workers.exchange.ending(batch_id)
    assert ending is not None
    assert ending[0] == "cancelled"
    # If a worker has started the batch, its record gets an end.
    [message] = messages(workers, names.COMBINE_QUEUE)
    assert message["headers"]["task"] == names.END_TASK


def test_only_the_callbacks_result_is_stored(source: Backend, workers: Workers) -> None:
    source.submit(prepared())
    [length] = messages(workers, names.LENGTH_QUEUE)
    assert length["headers"]["ignore_result"] is True
    assert not length["body"][2]["chord"]["options"].get("ignore_result")


def test_results_are_read_together_in_the_order_asked(source: Backend, workers: Workers) -> None:
    workers.store("a", 1)
    workers.fail("c", OSError("disk"))
    first, second, third = source.results(["a", "b", "c"])
    assert first is not None
    assert (first["status"], first["result"]) == ("SUCCESS", 1)
    assert second is None
    assert third is not None
    assert (third["status"], third["result"]["exc_type"]) == ("FAILURE", "OSError")


def test_a_resubmission_deletes_an_earlier_result(source: Backend, workers: Workers) -> None:
    submission = prepared()
    source.submit(submission)
    batch_id = submission.manifest.batch_id
    workers.fail(batch_id, OSError("disk"))
    source.submit(submission.resubmission("failed"))
    assert source.results([batch_id]) == [None]
    workers.fail(batch_id, OSError("disk"))
    source.resubmit(batch_id, "gone")
    assert source.results([batch_id]) == [None]
    assert workers.sent(names.JUDGE_QUEUE) == 9
    assert workers.exchange.manifest(batch_id).submission == 3


def test_a_resubmission_that_redis_refuses_at_first_is_counted_once(
    source: Backend, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    submission = prepared()
    source.submit(submission)
    publish, refusals = Producer.publish, iter([RedisRefuses("a failover is under way")])

    def refused_once(*given: Any, **options: Any) -> Any:
        for refusal in refusals:
            raise refusal
        return publish(*given, **options)

    monkeypatch.setattr(Producer, "publish", refused_once)
    monkeypatch.setattr(redis_client, "_PAUSE_S", 0.0)
    source.submit(submission.resubmission("made no progress for 30 s"))
    source.measurements.close()
    assert next(refusals, None) is None
    counted = [
        (one.labels, one.value)
        for one in read_measurements(workers.redis).values
        if one.name == measured.RESUBMISSIONS.name
    ]
    assert counted == [(("stalled",), 1)]


def test_one_of_several_processes_resubmits_a_stalled_batch(
    source: Backend, workers: Workers, redis_url: str
) -> None:
    submission = prepared()
    source.submit(submission)
    batch_id = submission.manifest.batch_id
    once = workers.sent()
    for process in (source, Backend(redis_url, 600), Backend(redis_url, 600)):
        process.resubmit(batch_id, "gone")
    assert workers.sent() == 2 * once
    source.resubmit(batch_id, "gone")
    assert workers.sent() == 3 * once


def test_without_payloads_a_resubmission_reads_the_record(
    source: Backend, workers: Workers
) -> None:
    source.resubmit("gone", "gone")
    [message] = messages(workers, names.COMBINE_QUEUE)
    assert message["headers"]["task"] == names.RECALL_TASK
    assert message["headers"]["id"] == "gone"


def test_progress_is_none_without_payloads(source: Backend, workers: Workers) -> None:
    submission = prepared()
    batch_id = submission.manifest.batch_id
    assert source.states([batch_id])[0].judged is None
    source.submit(submission)
    assert source.states([batch_id])[0].judged == 0
    workers.report(batch_id, 3)
    assert source.states([batch_id])[0].judged == source.judged(batch_id) == 3


def test_a_small_batch_is_one_judge_task(source: Backend, workers: Workers) -> None:
    submission = prepared(4)
    source.submit(submission)
    [message] = messages(workers, names.JUDGE_QUEUE)
    assert message["headers"]["task"] == names.SMALL_BATCH_TASK
    assert message["headers"]["id"] == submission.manifest.batch_id
    assert message["headers"][names.FLOW_HEADER]["calls"] == 4
    assert workers.sent(names.LENGTH_QUEUE) == workers.sent(names.COMBINE_QUEUE) == 0
    assert source.unserved(submission.manifest.batch_id) == [names.JUDGE_QUEUE]


def test_storing_a_batch_counts_the_judge_messages_that_wait(
    source: Backend, workers: Workers
) -> None:
    source.submit(prepared(4))
    assert source.waiting_messages == 0
    workers.redis.sadd(names.FLOWS_KEY, "flow")
    workers.redis.lpush(names.flow_key("flow"), "a", "b")
    source.submit(prepared(4))
    assert source.waiting_messages == 3
