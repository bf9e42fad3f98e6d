"""What a client does once, before its first call."""

import subprocess
import sys

from oyer.demo.judge_server import JudgeServer

SCRIPT = """
import subprocess, sys
from oyer.config.reward import EndpointConfig
from oyer.tasks.endpoint.client import EndpointClient
from oyer.tasks.endpoint.types import ChatRequest, Reply

client = EndpointClient("judge", EndpointConfig(base_url=sys.argv[1]), {})
started = []
sys.addaudithook(lambda event, arguments: event == "subprocess.Popen" and started.append(arguments))
message = {"role": "user", "content": "2 + 2 = 4"}
request = ChatRequest(model="m", messages=[message], temperature=0.0, max_tokens=64)
assert isinstance(client.complete(request, timeout_s=20.0), Reply)
print(len(started))
subprocess.run(["true"])
print(len(started))
"""


def test_calls_start_no_process() -> None:
    with JudgeServer() as server:
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, server.base_url],
            capture_output=True,
            text=True,
            check=True,
        )
    assert done.stdout.split() == ["0", "1"]
