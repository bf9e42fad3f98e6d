"""Names of tasks, queues and Redis keys. They do not depend on file names."""

import json
from collections.abc import Iterable
from typing import Any

JUDGE_TASK = "oyer.judge.chunk"
SMALL_BATCH_TASK = "oyer.judge.batch"
LENGTH_TASK = "oyer.length.batch"
COMBINE_TASK = "oyer.combine.batch"
RECORD_TASK = "oyer.combine.chunk"
RECALL_TASK = "oyer.combine.recall"
END_TASK = "oyer.combine.end"

HEADER_TASKS = (JUDGE_TASK, LENGTH_TASK, RECORD_TASK)
"""Header tasks of a chord; the chord counts their results."""

JUDGE_QUEUE = "judge"
LENGTH_QUEUE = "length"
COMBINE_QUEUE = "combine"

QUEUES = (JUDGE_QUEUE, LENGTH_QUEUE, COMBINE_QUEUE)
"""One queue per kind of worker."""

QUEUE_OF_TASK = {
    JUDGE_TASK: JUDGE_QUEUE,
    SMALL_BATCH_TASK: JUDGE_QUEUE,
    LENGTH_TASK: LENGTH_QUEUE,
    COMBINE_TASK: COMBINE_QUEUE,
    RECORD_TASK: COMBINE_QUEUE,
    RECALL_TASK: COMBINE_QUEUE,
    END_TASK: COMBINE_QUEUE,
}

CHECK_RUN = "oyer-check"
"""The run that the rollouts of `oyer check` are recorded under. Its budget only makes workers look for
prices, and is no limit."""

FLOWS_KEY = "oyer:judge:flows"
"""Redis set of the flows that have judge messages waiting in a list of their own."""

FLOW_HEADER = "oyer"
"""Message header of a judge task: its flow and its number of calls, see `flow_header`."""

SENT_AT_HEADER = "oyer_sent_at"
"""Message header of every task: when it was sent, in epoch seconds."""

BACKLOG_KEY = "oyer:backlog"
"""Redis hash of payload sizes in bytes, by batch id or by the key of an incomplete group."""

BACKLOG_ENDS_KEY = "oyer:backlog:ends"
"""Redis sorted set of expiry times of the entries of `BACKLOG_KEY`."""

LEASE_KEY = "oyer:lease"
"""Redis key of the message lease time that all running workers share, in seconds."""


def flow_header(run: str, priority: str, endpoints: Iterable[str], calls: int) -> dict[str, Any]:
    """Return the header by which workers share their slots: by run, priority and endpoints.

    Args:
        endpoints: names of the endpoints that the task calls.
        calls: maximum number of calls of the task.
    """
    flow = json.dumps([run, priority, sorted(set(endpoints))])
    return {FLOW_HEADER: {"flow": flow, "calls": calls}}


def flow_key(flow: str) -> str:
    """Redis key of the list of a flow's judge messages."""
    return f"oyer:judge:flow:{flow}"


def batch_key(batch_id: str, part: str) -> str:
    """Redis key of one payload of a batch."""
    return f"oyer:batch:{batch_id}:{part}"


def group_key(group: str) -> str:
    """Redis key of a group whose rollouts arrive from several processes."""
    return f"oyer:group:{group}"


def spread_key(name: str) -> str:
    """Redis key of how long the groups of a run and split took from first to last rollout."""
    return f"oyer:spread:{name}"


def mailbox_key(process: str) -> str:
    """Redis key of the list of group events for one process."""
    return f"oyer:mailbox:{process}"


def worker_key(queue: str, worker: str) -> str:
    """Redis key of the heartbeat of one worker."""
    return f"oyer:worker:{queue}:{worker}"
