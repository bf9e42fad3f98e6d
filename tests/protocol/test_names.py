"""Names of tasks, queues and keys; the workers' app serves all tasks."""

import json
import os
import subprocess
import sys

from oyer.protocol import names


def run(code: str, **environ: str) -> subprocess.CompletedProcess[str]:
    plain = {k: v for k, v in os.environ.items() if not k.startswith("OYER_")}
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**plain, **environ},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_workers_app_has_a_task_by_every_name() -> None:
    code = (
        "import json; from oyer.tasks.celery import app\n"
        "print(json.dumps([n for n in app.tasks if not n.startswith('celery.')]))"
    )
    done = run(code, OYER_BROKER__URL="redis://127.0.0.1:1/0")
    assert set(json.loads(done.stdout)) == set(names.QUEUE_OF_TASK)


def test_a_worker_without_a_broker_names_the_setting() -> None:
    done = run("import oyer.tasks.celery")
    assert done.returncode == 1
    assert "InvalidConfig: broker.url: is not set" in done.stderr
    assert "OYER_BROKER__URL=redis://" in done.stderr


def test_loading_the_app_imports_no_task_body() -> None:
    code = (
        "import sys, oyer.tasks.celery\nprint([m for m in ('torch', 'openai') if m in sys.modules])"
    )
    done = run(code, OYER_BROKER__URL="redis://127.0.0.1:1/0")
    assert done.stdout == "[]\n"


def test_every_task_has_one_of_the_queues() -> None:
    assert set(names.QUEUE_OF_TASK.values()) == set(names.QUEUES)


def test_keys_of_two_batches_and_two_workers_differ() -> None:
    assert names.batch_key("a", "manifest") == "oyer:batch:a:manifest"
    assert names.batch_key("a", "manifest") != names.batch_key("b", "manifest")
    assert names.worker_key("judge", "host:1") == "oyer:worker:judge:host:1"


def test_the_bare_package_cannot_be_imported() -> None:
    done = run("import sys; sys.path.insert(0, '.'); import tasks")
    assert done.returncode == 1
    assert "import oyer.tasks, not tasks: the bare name loads a second copy" in done.stderr
