"""What each table and column holds, for whoever reads the record by SQL.

`migrations.upgrade` writes it into PostgreSQL (`COMMENT ON`), and `make docs` into docs/record.md.
"""

BATCH_PART = {
    "submitted_at": "When the batch was first submitted (UTC); the same in all rows of a batch.",
    "batch_id": "The batch, as `batches.id`.",
    "rollout_index": "Place of the rollout in its batch, from 0.",
}

TABLES = {
    "runs": "Trainings and evaluations, by name.",
    "batches": "What one `submit` handed over.",
    "submissions": "Each time that a batch was handed to the workers.",
    "texts": "Prompts, responses, references and texts of requests; each text is stored once.",
    "rubrics": "Rubrics that judges were given.",
    "rollouts": "Sampled completions, with their texts by hash.",
    "judgements": "One row per rollout, judge and sample: a score, or a status that says why not.",
    "attempts": "One row per HTTP request to a judge, failed ones too.",
    "rewards": "What the trainer was given for each rollout.",
}

COLUMNS = {
    "runs": {
        "id": "Number of the run.",
        "name": "Name of the run.",
        "created_at": "When its first batch came on record (UTC).",
    },
    "batches": {
        "id": "UUID of the batch.",
        "run_id": "The run, as `runs.id`.",
        "step": "Training step; NULL where the trainer gave none.",
        "size": "Number of rollouts.",
        "plan": "Judges, length methods and reward rules, as they travelled with the batch (JSON).",
        "status": "`submitted` until it ends; then `finished`, `cancelled` or `failed`.",
        "submissions": "How often the batch was handed to the workers.",
        "oyer_version": "Release of the worker that recorded it.",
        "submitted_at": "When it was first submitted (UTC).",
        "finished_at": "When it ended (UTC).",
        "split": "What the rollouts are for, e.g. `train` or `eval`; NULL where nobody said.",
        "ending": "Who cancelled the batch or gave it up, and why.",
        "counts": "Rollouts per status, once the batch has ended (JSON).",
        "usage": "Calls, tokens and cost in US dollars, once the batch has ended (JSON).",
    },
    "submissions": {
        "batch_id": "The batch, as `batches.id`.",
        "sent_at": "When the trainer sent it (UTC).",
        "host": "Host and process that sent it.",
        "why": "`submit`, or the reason for sending it again.",
        "seen_at": "When the first worker took it (UTC).",
        "worker": "That worker.",
    },
    "texts": {
        "hash": "SHA-256 of the body's UTF-8, in hex.",
        "body": "The text; chat messages as canonical JSON.",
    },
    "rubrics": {
        "hash": "SHA-256 of the rubric, in hex.",
        "name": "Name in the rubric's front matter, or the judge's.",
        "text": "The rubric.",
    },
    "rollouts": {
        **BATCH_PART,
        "group_id": "Group of rollouts that the trainer compares.",
        "prompt_hash": "The prompt, as `texts.hash`.",
        "response_hash": "The response, as `texts.hash`.",
        "reference_hash": "The reference answer, as `texts.hash`; NULL where there is none.",
        "base_score": "The trainer's own score, e.g. of a verifier.",
        "correct": "Whether the trainer says that the response is correct.",
        "truncated": "Whether the response was cut off at the token limit.",
        "response_tokens": "Length of the response in tokens.",
        "metadata": "The trainer's own metadata (JSON).",
    },
    "judgements": {
        **BATCH_PART,
        "judge": "Name of the judge.",
        "sample": "0 unless the judge is asked several times.",
        "status": "`scored`, or why there is no score; README.md lists them.",
        "score": "On the judge's own scale; set exactly where `status` is `scored`.",
        "reply": "The judge's reply, as it came.",
        "reasoning": "What the judge's model thought before the reply.",
        "parsed_layer": "Which reading of the reply gave the score.",
        "parsed_span": "The words of the reply that the score was read from.",
        "parser_version": "Version of the parser that read it.",
        "model": "The judge's model.",
        "endpoint": "Name of the endpoint that answered.",
        "rubric_hash": "The rubric, as `rubrics.hash`.",
        "request_hash": "Equal for requests that would be answered alike; what reuse looks up.",
        "parameters_hash": "Parameters of its request, as `texts.hash`; a text of JSON.",
        "messages_hash": (
            "Messages of its request, as `texts.hash`; NULL where the rollout's texts make them."
        ),
        "prompt_tokens": "Prompt tokens of all attempts together.",
        "completion_tokens": "Completion tokens of all attempts together.",
        "cost_usd": "Cost of all attempts together, in US dollars.",
        "latency_ms": "From the first request to the last answer, waits included, in ms.",
        "attempts": "HTTP requests made.",
        "source": "`called`, or `cache`, `record`, `joined` for a reply paid for elsewhere, or `none`.",
        "worker": "Worker process that judged it.",
        "error": "What went wrong; NULL where nothing did.",
        "started_at": "When it began (UTC).",
        "finished_at": "When it ended (UTC).",
    },
    "attempts": {
        **BATCH_PART,
        "judge": "Name of the judge.",
        "sample": "0 unless the judge is asked several times.",
        "id": "UUID of the attempt.",
        "number": "1 for the first request of its judgement.",
        "started_at": "When it was sent (UTC).",
        "url_index": "Which of the endpoint's base URLs was asked, from 0.",
        "http_status": "HTTP status; NULL where no answer came.",
        "error_class": "Kind of failure; NULL where it succeeded.",
        "latency_ms": "From request to answer, in ms.",
        "prompt_tokens": "Prompt tokens charged.",
        "completion_tokens": "Completion tokens charged.",
        "cost_usd": "Cost in US dollars.",
        "retry_wait_s": "Wait before the next request, in s; NULL where none followed.",
        "parameters_hash": "As of `judgements`; NULL where the scored judgement holds the same.",
        "seed": "Seed of the request; NULL where it had none.",
        "turns": "Messages of a re-ask: how many of the first are `kept`, and what is `added` (JSON).",
        "reply_hash": "Its reply, as `texts.hash`; NULL where the scored judgement holds the same.",
        "reasoning_hash": "As `reply_hash`, for what the model thought before the reply.",
        "error": "What the endpoint or the network said where no reply came.",
    },
    "rewards": {
        **BATCH_PART,
        "reward": "The reward that the trainer was given; NULL where there is none.",
        "unshaped_reward": "The reward before length terms.",
        "judge_score": "Score of all judges together; NULL where there is none.",
        "status": "Status of the rollout; README.md lists them.",
        "trainable": "Whether the reward may be trained on.",
        "terms": "Each named term's value; null where it has none (JSON).",
        "created_at": "When it was computed (UTC).",
        "group_size": "Rollouts of its group in its batch; NULL where it has no group.",
    },
}

JUDGE_HISTORY = "One row per judgement, with its rollout, texts and reward."

HISTORY_COLUMNS = {
    **COLUMNS["rewards"],
    **COLUMNS["rollouts"],
    **COLUMNS["judgements"],
    "run": "Name of the run.",
    "step": COLUMNS["batches"]["step"],
    "prompt": "The prompt; chat messages as JSON.",
    "response": "The response that was judged.",
    "reference": "The reference answer; NULL where there is none.",
    "prompt_tokens": "Prompt tokens of the judge's requests for this judgement.",
    "completion_tokens": "Completion tokens of the judge's replies for this judgement.",
    "cost_usd": (
        "Cost of this judgement in US dollars; a judgement that replaced an unscored one does not"
        " hold what that one cost, `attempts` does."
    ),
    "split": "What the rollout is for: `batches.split`, or the key `split` of its metadata.",
    "scale_low": "Lowest score of the judge's scale.",
    "scale_high": "Highest score of the judge's scale.",
    "rubric": "Name of the rubric.",
}
"""Meanings by name; the view has some of these columns."""


def history_comments(columns: list[str]) -> dict[str, str]:
    """Return what each of the view's columns holds, in the view's order."""
    return {name: HISTORY_COLUMNS[name] for name in columns}
