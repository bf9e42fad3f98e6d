"""What a chunk's answers add to the metrics."""

from dataclasses import replace
from datetime import UTC, datetime

from oyer.config.reward import JudgeConfig, Price, RewardRules
from oyer.protocol.measuring.measurements import Measurements, read_measurements
from oyer.protocol.redis_client import connect
from oyer.protocol.rollout import Rollout
from oyer.protocol.status import Status
from oyer.tasks.judging.judgements import Answer, AttemptRecord
from oyer.tasks.judging.requests import requests_of
from oyer.tasks.monitoring.answer_counts import count_answers
from tests.support.waiting import wait_until

JUDGE = JudgeConfig.model_validate({"name": "q", "endpoint": "e", "model": "m"})
PRICE = Price(prompt_usd=2.0, completion_usd=8.0)
SENT = AttemptRecord(
    number=1,
    started_at=datetime(2026, 1, 1, tzinfo=UTC),
    url_index=0,
    http_status=200,
    error_class=None,
    latency_ms=12.5,
    prompt_tokens=0,
    completion_tokens=0,
    retry_wait_s=None,
    billed=(100, 10),
)


def test_a_call_is_counted_by_the_worker_that_sent_it_at_its_cost_on_record(
    redis_url: str,
) -> None:
    (request,) = requests_of({5: Rollout(prompt="p", response="r")}, [JUDGE], RewardRules(), {})
    attempts = [SENT, replace(SENT, restored=True)]
    answer = Answer(source="called", status=Status.UNPARSEABLE, attempts=attempts)
    client = connect(redis_url)
    measurements = Measurements(client)
    count_answers(measurements, "r", [(request, answer)], lambda _: PRICE)
    measurements.close()

    def values() -> dict[str, float]:
        found = read_measurements(client).values
        return {one.name: one.value for one in found if not one.part}

    # `close` bounds its wait for the last write.
    wait_until(lambda: "oyer_cost_usd" in values(), "the counts are written")
    assert values()["oyer_cost_usd"] == (100 * 2 + 10 * 8) / 1e6
    assert values()["oyer_attempts"] == 1
