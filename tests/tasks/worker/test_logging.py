"""Worker processes log one line per event; libraries log only warnings."""

import json
import os
import subprocess
import sys
from datetime import datetime

import pytest

from oyer.protocol.errors import InvalidConfig
from oyer.tasks.worker.logging import log_format

CODE = """
import logging
from oyer.tasks.worker.logging import configure_logging
logging.basicConfig(format="twice: %(message)s")
configure_logging({level})
for name in ("oyer.tasks.judge", "openai", "httpx2", "alembic.runtime"):
    logging.getLogger(name).info("told by %s", name)
    logging.getLogger(name).warning("warned by %s", name)
"""


def lines(level: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(level=level)], capture_output=True, text=True, check=True
    )
    assert done.stdout == ""
    return done.stderr.splitlines()


def test_info_lines_of_libraries_are_dropped() -> None:
    told = [line for line in lines("logging.INFO") if "told by" in line]
    assert len(told) == 1
    assert told[0].endswith("INFO MainProcess oyer.tasks.judge: told by oyer.tasks.judge")


def test_a_warning_is_one_line() -> None:
    warned = [line for line in lines("logging.INFO") if "warned by" in line]
    assert len(warned) == 4
    assert not any("twice" in line for line in warned)


JSON_CODE = """
import logging
from oyer.tasks.worker.logging import configure_logging
configure_logging(logging.INFO)
log = logging.getLogger("oyer.tasks.combine")
log.info("batch %s", "ä", extra={"fields": {"calls": 3}})
try:
    1 / 0
except ZeroDivisionError:
    log.exception("failed")
"""


def test_lines_are_json_if_configured() -> None:
    done = subprocess.run(
        [sys.executable, "-c", JSON_CODE],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OYER_LOG_FORMAT": "json"},
    )
    told, failed = map(json.loads, done.stderr.splitlines())
    assert (told["message"], told["level"], told["fields"]) == ("batch ä", "INFO", {"calls": 3})
    assert datetime.fromisoformat(told["time"]).tzinfo is not None
    assert "ZeroDivisionError" in failed["traceback"]


def test_an_unknown_format_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OYER_LOG_FORMAT", "xml")
    with pytest.raises(InvalidConfig, match=r"OYER_LOG_FORMAT: 'xml' is neither `text` nor"):
        log_format()


def test_the_default_level_is_warning() -> None:
    assert len(lines("0")) == 4


CONTEXT_CODE = """
import logging, threading
from oyer.tasks.worker.logging import configure_logging, forget_log_values, log_values
configure_logging(logging.INFO)
log = logging.getLogger("oyer.tasks.judge")
log_values(batch_id="b", run="r")
log_values(judge="q")
log.info("one")
log.info("two", extra={"fields": {"batch_id": "c", "calls": 1}})
thread = threading.Thread(target=log.info, args=("elsewhere",))
thread.start()
thread.join()
forget_log_values()
log.info("next task")
"""


def test_a_json_line_names_batch_run_and_judge_where_they_are_known() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CONTEXT_CODE],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OYER_LOG_FORMAT": "json"},
    )
    names = ("batch_id", "run", "judge")
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [[line.get(name) for name in names] for line in lines] == [
        ["b", "r", "q"],
        ["c", "r", "q"],
        [None, None, None],
        [None, None, None],
    ]
