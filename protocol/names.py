"""Names of the tasks, queues and Redis keys; renaming a file never strands a message."""

JUDGE_TASK = "oyer.judge.chunk"
LENGTH_TASK = "oyer.length.batch"
COMBINE_TASK = "oyer.combine.batch"
RECORD_TASK = "oyer.combine.chunk"
RECALL_TASK = "oyer.combine.recall"
END_TASK = "oyer.combine.end"

HEADER_TASKS = (JUDGE_TASK, LENGTH_TASK, RECORD_TASK)
"""Tasks that a chord counts, and whose results nobody reads."""

JUDGE_QUEUE = "judge"
LENGTH_QUEUE = "length"
COMBINE_QUEUE = "combine"

QUEUES = (JUDGE_QUEUE, LENGTH_QUEUE, COMBINE_QUEUE)
"""One queue for each kind of worker."""

QUEUE_OF_TASK = {
    JUDGE_TASK: JUDGE_QUEUE,
    LENGTH_TASK: LENGTH_QUEUE,
    COMBINE_TASK: COMBINE_QUEUE,
    RECORD_TASK: COMBINE_QUEUE,
    RECALL_TASK: COMBINE_QUEUE,
    END_TASK: COMBINE_QUEUE,
}

BACKLOG_KEY = "oyer:backlog"
"""Redis key of what is under way: bytes of payloads, by batch id or by the key of an open group."""

BACKLOG_ENDS_KEY = "oyer:backlog:ends"
"""Redis key of when the payloads of each batch or open group under way expire."""

LEASE_KEY = "oyer:lease"
"""Redis key under which living workers agree on how long a message is leased, in seconds."""


def batch_key(batch_id: str, part: str) -> str:
    """Redis key of a part of a batch in transit."""
    return f"oyer:batch:{batch_id}:{part}"


def group_key(group: str) -> str:
    """Redis key of a group that processes assemble together."""
    return f"oyer:group:{group}"


def mailbox_key(process: str) -> str:
    """Redis key under which a process is told what became of its groups."""
    return f"oyer:mailbox:{process}"


def worker_key(queue: str, worker: str) -> str:
    """Redis key under which a living worker announces itself."""
    return f"oyer:worker:{queue}:{worker}"
