"""`oyer serve` as a process."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from oyer.demo.judge_server import JudgeServer
from oyer.demo.responses import Action
from tests.support.served_app import Served

OYER = [sys.executable, "-m", "oyer.cli"]


def test_it_serves_with_an_embedded_backend_until_it_is_interrupted(tmp_path: Path) -> None:
    with JudgeServer(Action(text="Final score: 10")) as judge:
        config = tmp_path / "oyer.yaml"
        config.write_text(
            json.dumps(
                {
                    "endpoints": {"fake": {"base_url": judge.base_url}},
                    "judges": [{"name": "q", "endpoint": "fake", "model": "m"}],
                    "store": {"url": f"sqlite:///{tmp_path / 'oyer.db'}"},
                }
            )
        )
        command = [*OYER, "serve", "--config", str(config), "--port", "0", "--local", "--json"]
        environ = {**os.environ, "REWARD_TOKEN": "s3cret"}
        with subprocess.Popen(
            [*command, "--token-env", "REWARD_TOKEN"],
            stdout=subprocess.PIPE,
            text=True,
            env=environ,
            cwd=tmp_path,
        ) as process:
            assert process.stdout is not None
            ready = json.loads(process.stdout.readline())
            server = Served(int(ready["url"].rpartition(":")[2]))
            sample = {"prompt": "p", "response": "r", "label": None}
            assert server.post("/rm", sample).status == 401
            answer = server.post("/rm", sample, Authorization="Bearer s3cret")
            assert answer.json() == 1.0
            assert server.get("/healthz").json() == {"status": "ok"}
            process.send_signal(signal.SIGINT)
            assert process.wait(60) in (0, -signal.SIGINT, 130)


def failing(*options: str) -> str:
    done = subprocess.run([*OYER, "serve", *options], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    return " ".join(done.stderr.split())


def test_it_refuses_other_machines_without_a_token() -> None:
    assert "--token-env" in failing("--host", "0.0.0.0")


def test_it_refuses_a_token_that_is_not_set() -> None:
    assert "NO_SUCH_TOKEN is not set" in failing("--token-env", "NO_SUCH_TOKEN")


def test_a_port_in_use_is_named() -> None:
    with JudgeServer() as other:
        assert "choose another" in failing("--port", str(other.port))
