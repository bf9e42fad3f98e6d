"""Fixtures and forged messages of the security tests."""

import base64
import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from oyer.demo.judge_server import JudgeServer
from oyer.demo.responses import Action


@pytest.fixture(scope="session")
def session_judge() -> Iterator[JudgeServer]:
    """The session's judge endpoint."""
    with JudgeServer(Action(text="Final score: 8")) as server:
        yield server


@pytest.fixture
def judge(session_judge: JudgeServer) -> JudgeServer:
    """The judge with an empty log; its reply is a score of 8."""
    session_judge.set_plan(Action(text="Final score: 8"))
    session_judge.reset()
    return session_judge


def logs_in(folder: Path) -> str:
    """Return the logs of a backend's processes."""
    logs = sorted(folder.glob("*.log"))
    assert logs
    return "\n".join(log.read_text(errors="replace") for log in logs)


class Marker:
    """Creates a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self._path),))


def raw_message(queue: str, task: str, body: bytes, content_type: str) -> str:
    """Encode a Celery message with any body."""
    tag = str(uuid.uuid4())
    headers = {"lang": "py", "task": task, "id": tag, "root_id": tag, "retries": 0}
    headers |= {"timelimit": [None, None], "argsrepr": "", "kwargsrepr": ""}
    place = {"exchange": queue, "routing_key": queue}
    properties = {"correlation_id": tag, "delivery_tag": tag, "delivery_mode": 2, "priority": 0}
    return json.dumps(
        {
            "body": base64.b64encode(body).decode(),
            "content-encoding": "binary",
            "content-type": content_type,
            "headers": headers,
            "properties": {**properties, "delivery_info": place, "body_encoding": "base64"},
        }
    )
