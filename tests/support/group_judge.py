"""A scripted group judge that knows the quality of each response, and groups for it."""

import json
import re
from typing import Any

from oyer.demo.request_log import RequestEntry
from oyer.demo.responses import Action
from oyer.demo.rule_judge import fenced_blocks
from oyer.manager import RewardManager, Rollout

LISTWISE = {"name": "ranking", "kind": "group", "endpoint": "fake", "model": "m"}
PAIRS = {**LISTWISE, "mode": "pairs"}


def shown(request: RequestEntry) -> list[str]:
    """The responses that a request shows, in order."""
    user = next(content for role, content in request.messages() if role == "user")
    count = len(re.findall(r"(?m)^## Response \d+$", user))
    return fenced_blocks(user)[-count:]


def points(response: str) -> int:
    """The quality that the scripted judge sees: the response's last number."""
    return int(response.split()[-1])


def honest(request: RequestEntry) -> Action:
    """Score or compare responses by their points."""
    responses = shown(request)
    if '"winner"' in dict(request.messages())["system"]:
        a, b = map(points, responses)
        winner = "tie" if a == b else 1 if a > b else 2
        return Action(text=json.dumps({"reason": f"{a} or {b}", "winner": winner}))
    entries = [
        {"id": i, "explanation": f"worth {points(one)}", "score": points(one)}
        for i, one in enumerate(responses, start=1)
    ]
    return Action(text=f"Here it is:\n```json\n{json.dumps({'scores': entries[::-1]})}\n```")


def group(tag: str, *values: int) -> list[Rollout]:
    return [
        Rollout(
            prompt=f"{tag}?",
            response=f"{tag} {value}",
            group_id=tag,
            base_score=1.0,
            response_tokens=5,
        )
        for value in values
    ]


def manager_with(backend: RewardManager, judge: dict[str, Any], **changes: Any) -> RewardManager:
    raw = backend.config.model_dump(mode="json")
    return RewardManager({**raw, "judges": [judge], "length": [], **changes})
