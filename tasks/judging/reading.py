"""How replies are read: the interface that each kind of judge implements, and the reading of one score."""

import math
from dataclasses import dataclass, replace
from typing import Protocol

from oyer.config import rubric
from oyer.config.judge import JudgeConfig
from oyer.protocol.status import Status
from oyer.tasks.endpoint.types import Reply
from oyer.tasks.parsing.expected_score import expected_score
from oyer.tasks.parsing.finish_reasons import End, end_of
from oyer.tasks.parsing.parser import ParsedScore, parse_score, short_span

LOGPROBS = "logprobs"
"""`ParsedScore.layer` of an expected score, which cannot be parsed again from the reply's text."""

_REASK = {
    "zh": "你的回复里没有可读的评分。请只输出一行，不写别的内容：\n最终评分: N\n"
    "（N 是 {low:g} 到 {high:g} 之间的一个数。）",
    "en": "Your reply holds no readable score. Reply with one line and nothing else:\n"
    "Final score: N\n(N is one number from {low:g} to {high:g}.)",
}


class Reading(Protocol):
    """Reads the replies to one request.

    `ParsedScore.status` decides what follows: `scored` is cached and final, `unparseable` is asked
    again up to the judge's `reasks`, everything else is final.
    """

    def read(self, reply: Reply) -> ParsedScore:
        """Read a reply as it came from the endpoint."""

    def read_again(self, text: str, expected: float | None) -> ParsedScore | None:
        """Read a reply from the cache or the record; None if it does not give a score now.

        Args:
            expected: the score that was computed from the reply's logprobs, if one was.
        """

    def reask(self, parsed: ParsedScore, *, last: bool) -> "tuple[str, Reading]":
        """Return the question that follows an unparseable reply, and the reading of its answer.

        Args:
            last: whether no further question follows.
        """

    def settled(self, parsed: ParsedScore) -> ParsedScore:
        """Return the final result of a reply that is not asked for again."""


def ended_without_score(reply: Reply) -> ParsedScore | None:
    """Return the result of a reply that was refused, filtered or broken off; None for any other."""
    end, reason = end_of(reply.finish_reason), reply.finish_reason or ""
    if reply.refusal or end is End.FILTERED:
        return no_score(Status.REFUSED, "refusal", reply.refusal or reason)
    if end is End.BROKEN:
        return no_score(Status.UNAVAILABLE, "finish_reason", reason)
    return None


def no_score(status: Status, layer: str, span: str = "", problem: str = "") -> ParsedScore:
    """Return a result without a score; the arguments are as in `ParsedScore`."""
    return ParsedScore(math.nan, status, layer, short_span(span), problem=problem)


@dataclass(frozen=True, slots=True)
class ScoreReading:
    """Reads one score on the judge's scale."""

    judge: JudgeConfig

    def read(self, reply: Reply) -> ParsedScore:
        """Parse the score that a reply states, or compute the expected one if the judge asks for it."""
        judge = self.judge
        parsed = parse_score(
            reply.text, scale=judge.scale, finish_reason=reply.finish_reason, refusal=reply.refusal
        )
        scored = parsed.status is Status.SCORED
        if not judge.expected_score or not scored or not reply.token_logprobs:
            return parsed
        tokens = [
            {
                "token": token.token,
                "logprob": token.logprob,
                "top_logprobs": [{"token": name, "logprob": p} for name, p in token.top],
            }
            for token in reply.token_logprobs
        ]
        expected = expected_score(tokens, judge.scale, parsed.score)
        return parsed if expected is None else replace(parsed, score=expected, layer=LOGPROBS)

    def read_again(self, text: str, expected: float | None) -> ParsedScore | None:
        """Parse the text; keep the expected score if the judge asks for it."""
        parsed = parse_score(text, scale=self.judge.scale)
        if parsed.status is not Status.SCORED:
            return None
        if expected is None or not self.judge.expected_score:
            return parsed
        return replace(parsed, score=expected, layer=LOGPROBS)

    def reask(self, parsed: ParsedScore, *, last: bool) -> tuple[str, Reading]:
        """Ask for the verdict line alone."""
        low, high = self.judge.scale
        language = rubric.parse(self.judge.rubric).language
        return _REASK[language].format(low=low, high=high), self

    def settled(self, parsed: ParsedScore) -> ParsedScore:
        """Return the result unchanged."""
        return parsed
