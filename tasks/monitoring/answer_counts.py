"""Counts a chunk's answers for `oyer metrics`."""

from collections.abc import Callable, Sequence

from oyer.config.reward import JudgeConfig, Price
from oyer.protocol.measuring import measured
from oyer.protocol.measuring.measurements import Measurements
from oyer.tasks.judging.judgements import Answer, AttemptRecord
from oyer.tasks.judging.requests import JudgeRequest


def count_answers(
    measurements: Measurements,
    run: str,
    answered: Sequence[tuple[JudgeRequest, Answer]],
    price_of: Callable[[JudgeConfig], Price | None],
) -> None:
    """Count judgements, and the attempts, tokens and cost of their calls."""
    urls: dict[tuple[str, int], bool] = {}
    for request, answer in answered:
        judge, endpoint = request.judge.name, request.judge.endpoint
        status = answer.parsed.status if answer.parsed else answer.status
        measurements.count(measured.JUDGEMENTS, judge, str(status), answer.source)
        # Another worker sent the others, and counts them if it lives.
        sent = [one for one in answer.attempts if not one.restored]
        usd = sum(one.cost_usd(price_of(request.judge)) for one in sent)
        measurements.count(measured.COST_USD, run, judge, by=usd)
        for attempt in sent:
            _count_attempt(measurements, endpoint, attempt)
            place = endpoint, attempt.url_index
            urls[place] = urls.get(place, False) or _answers(attempt)
    for (endpoint, url_index), answers in urls.items():
        measurements.note_url(endpoint, url_index, answers=answers)


def _count_attempt(measurements: Measurements, endpoint: str, attempt: AttemptRecord) -> None:
    status = "none" if attempt.http_status is None else str(attempt.http_status)
    measurements.count(measured.ATTEMPTS, endpoint, status)
    measurements.observe(measured.ATTEMPT_SECONDS, attempt.latency_ms / 1000, endpoint)
    tokens = {
        "prompt": attempt.prompt_tokens,
        "cached": attempt.cached_tokens,
        "completion": attempt.completion_tokens,
        "reasoning": attempt.reasoning_tokens,
    }
    for kind, n in tokens.items():
        measurements.count(measured.TOKENS, endpoint, kind, by=n)


def _answers(attempt: AttemptRecord) -> bool:
    """Whether the server behind the URL works: it responded, and not with a server error."""
    return attempt.http_status is not None and attempt.http_status < 500
