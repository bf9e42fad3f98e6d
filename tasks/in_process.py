"""Scores a batch in this process, without broker, workers or database; for debugging.

Requests, retries and parsing are those of a worker. Calls run on threads. The scorer keeps answers
with a score in memory.
"""

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from oyer.config.reward import RewardConfig
from oyer.models.rows import JudgementRow
from oyer.protocol.batch import Columns
from oyer.protocol.batch_result import BatchResult, CriteriaOfRow
from oyer.protocol.rollout import Rollout
from oyer.protocol.status import Status
from oyer.protocol.token_ids import TokenIds
from oyer.tasks.coordination.lessons import Lessons, server_identity
from oyer.tasks.endpoint.client import EndpointClient
from oyer.tasks.judging.aggregate import Verdict, chunk_groups
from oyer.tasks.judging.call import EndpointServices, JudgeCaller
from oyer.tasks.judging.chunk_requests import chunk_requests
from oyer.tasks.judging.judge_call import judge_call
from oyer.tasks.judging.judgements import Answer, judgement_row, verdicts_on
from oyer.tasks.judging.requests import JudgeRequest, RequestContext, decided_score
from oyer.tasks.rewards.compose import RewardInputs, batch_result, compose
from oyer.tasks.rewards.length_columns import LengthInputs
from oyer.tasks.rewards.length_terms import length_part
from oyer.tasks.rewards.missing_judges import Verdicts


class InProcessScorer:
    """Scores batches under one configuration.

    Args:
        environ: environment variables with the API keys of the endpoints.

    Raises:
        InvalidConfig: an API key is missing, or an endpoint cannot be called.
    """

    def __init__(self, config: RewardConfig, environ: Mapping[str, str]) -> None:
        self._config = config
        self._endpoints = {
            name: EndpointServices(
                config=endpoint,
                client=EndpointClient(name, endpoint, environ),
                limiter=None,
                lessons=Lessons(name, endpoint),
            )
            for name, endpoint in config.endpoints.items()
        }
        self._in_flight = sum(endpoint.max_in_flight for endpoint in config.endpoints.values())
        self._kept: dict[str, Answer] = {}

    def score(self, columns: Columns, rollouts: Sequence[Rollout]) -> BatchResult:
        """Judge, compute length terms and compose, as the workers do."""
        judges, rules = self._config.judges, self._config.reward
        bodies = {name: end.config.extra_body for name, end in self._endpoints.items()}
        servers = {name: server_identity(end.config) for name, end in self._endpoints.items()}
        context = RequestContext(rules=rules, bodies=bodies, servers=servers)
        groups = chunk_groups(columns.group_ids, 0, ())
        requests = chunk_requests(dict(enumerate(rollouts)), judges, groups, context)
        asked = self._ask({str(job.key): job for job in requests.asked})
        answers = {job.place: asked[str(job.key)] for job in requests.asked}
        rows = {job.place: _row(job, answer) for job, answer in requests.answered(answers)}
        verdicts: dict[str, Verdicts] = {}
        errors: dict[str, str] = {}
        criteria: list[CriteriaOfRow] = [{} for _ in rollouts]
        turns: list[list[float | None]] = [[] for _ in rollouts]
        for judge in judges:
            found = verdicts_on(rows, judge, range(len(rollouts)))
            verdicts[judge.name], first_errors = _verdicts(list(found.values()))
            errors |= first_errors
            for i, verdict in found.items():
                if verdict.criteria:
                    criteria[i][judge.name] = verdict.criteria
                if verdict.turn_scores:
                    turns[i] = verdict.turn_scores
        inputs = RewardInputs(columns=columns, judges=judges, verdicts=verdicts, rules=rules)
        length = length_part(
            self._config.length,
            LengthInputs(
                rewards=inputs,
                read_responses=lambda: [rollout.response for rollout in rollouts],
                read_token_ids=lambda: TokenIds.of_all([r.token_ids for r in rollouts]),
                tokenizer=self._config.tokenizer,
            ),
        )
        return batch_result(
            "direct",
            compose(inputs, length),
            length,
            usage=_usage(asked),
            first_errors=errors,
            criteria=criteria if any(criteria) else (),
            turn_scores=turns if any(turns) else (),
        )

    def _ask(self, jobs: Mapping[str, JudgeRequest]) -> dict[str, Answer]:
        """Answer each request, from memory if it was answered before."""
        known = {key: self._kept[key] for key in jobs if key in self._kept}
        to_call = [job for key, job in jobs.items() if key not in known]
        if not to_call:
            return known
        caller = JudgeCaller(
            endpoints=self._endpoints,
            problems={},
            deadline=time.time() + self._config.deadline_s,
            cancelled=lambda: False,
        )
        with ThreadPoolExecutor(min(self._in_flight, len(to_call))) as pool:
            answers = list(pool.map(lambda job: judge_call(caller, job), to_call))
        called = {str(job.key): answer for job, answer in zip(to_call, answers, strict=True)}
        for key, answer in called.items():
            if answer.status is Status.SCORED:
                self._kept[key] = replace(answer, source="cache", attempts=())
        return known | called


def _row(job: JudgeRequest, answer: Answer) -> JudgementRow:
    row = judgement_row(job, answer, worker="direct", price=None)
    if job.decided is not None:
        row["score"] = decided_score(job)
    return row


def _verdicts(found: Sequence[Verdict]) -> tuple[Verdicts, dict[str, str]]:
    """Return one judge's verdicts as columns, and the first error of each failed status."""
    errors: dict[str, str] = {}
    for verdict in found:
        if verdict.error is not None:
            errors.setdefault(verdict.status, verdict.error)
    scores = np.array([verdict.score for verdict in found], dtype=float)
    return Verdicts(scores, [verdict.status for verdict in found]), errors


def _usage(asked: Mapping[str, Answer]) -> dict[str, float]:
    answers = asked.values()
    return {
        "calls": sum(len(answer.attempts) for answer in answers),
        "prompt_tokens": sum(answer.prompt_tokens for answer in answers),
        "completion_tokens": sum(answer.completion_tokens for answer in answers),
        "cost_usd": 0.0,
    }
