"""How the replies of group judges are read: as a list of scores, or as the winner of a pair."""

from dataclasses import dataclass
from statistics import fmean

from oyer.config import rubric
from oyer.config.judge import JudgeConfig
from oyer.protocol.status import Status
from oyer.tasks.endpoint.types import Reply
from oyer.tasks.judging.group_judges.replies import ListedScore, Winner, read_list, read_winner
from oyer.tasks.judging.group_judges.wording import question_after, reply_format
from oyer.tasks.judging.reading import Reading, ended_without_score, no_score
from oyer.tasks.parsing.finish_reasons import End, end_of
from oyer.tasks.parsing.normalize import normalise, strip_thinking, unwrap
from oyer.tasks.parsing.parser import ParsedScore, short_span

LAYER = {"listwise": "list", "pairs": "winner"}
"""`ParsedScore.layer` by mode."""


@dataclass(frozen=True, slots=True)
class GroupReading:
    """Reads the reply to a request of a group judge."""

    judge: JudgeConfig
    responses: int
    """Number of responses that the request shows."""

    def read(self, reply: Reply) -> ParsedScore:
        """Read a reply; a truncated or failed one has no scores."""
        failed = ended_without_score(reply)
        if failed is not None:
            return failed
        end = end_of(reply.finish_reason)
        truncated = no_score(Status.TRUNCATED, "finish_reason", reply.finish_reason or "")
        if end is End.CUT:
            return truncated
        parsed = self._read(reply.text)
        return truncated if end is End.UNKNOWN and parsed.status is not Status.SCORED else parsed

    def read_again(self, text: str, expected: float | None) -> ParsedScore | None:
        """Read a reply from the cache or the record."""
        parsed = self._read(text)
        return parsed if parsed.status is Status.SCORED else None

    def reask(self, parsed: ParsedScore, *, last: bool) -> tuple[str, Reading]:
        """Ask for the whole reply again, naming what was wrong."""
        judge, language = self.judge, rubric.parse(self.judge.rubric).language
        expected = reply_format(
            language, pairs=judge.compares_pairs, n=self.responses, scale=judge.scale
        )
        return question_after(parsed.problem, language, expected), self

    def settled(self, parsed: ParsedScore) -> ParsedScore:
        """Return the result unchanged."""
        return parsed

    def scores(self, text: str) -> list[ListedScore]:
        """Return the scores of a reply that `read` found complete."""
        found = read_list(_visible(text), self.responses, self.judge.scale)
        assert not isinstance(found, str), found
        return found

    def winner(self, text: str) -> Winner:
        """Return the winner in a reply in which `read` found one."""
        found = read_winner(_visible(text))
        assert not isinstance(found, str), found
        return found

    def _read(self, text: str) -> ParsedScore:
        visible = _visible(text)
        layer = LAYER[self.judge.mode]
        if self.judge.compares_pairs:
            found = read_winner(visible)
            if isinstance(found, Winner):
                return ParsedScore(found.outcome, Status.SCORED, layer, short_span(found.reason))
        else:
            scores = read_list(visible, self.responses, self.judge.scale)
            if not isinstance(scores, str):
                return ParsedScore(fmean(one.score for one in scores), Status.SCORED, layer, "")
            found = scores
        return no_score(Status.UNPARSEABLE, layer, problem=found)


def member_score(entry: ListedScore) -> ParsedScore:
    """Return the result of one response of a list."""
    return ParsedScore(entry.score, Status.SCORED, LAYER["listwise"], entry.text)


def _visible(text: str) -> str:
    return unwrap(strip_thinking(normalise(text)) or "")
