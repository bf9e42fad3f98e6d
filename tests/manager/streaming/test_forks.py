"""Streams in forked processes, and where no thread can be started."""

import multiprocessing
import threading

import pytest

from oyer.demo.judge_server import JudgeServer
from oyer.demo.responses import Action
from oyer.manager import BackendUnavailable, RewardManager
from tests.support.scripted_backend import rollout


def test_a_forked_process_can_submit(plain: RewardManager, judge: JudgeServer) -> None:
    plain.score(rollout("before the fork")).result(60)
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(
        target=lambda: sender.send(plain.score(rollout("after the fork")).result(60).reward)
    )
    child.start()
    assert receiver.poll(60)
    assert receiver.recv() == pytest.approx(1.5)
    child.join()


def test_a_rollout_can_be_submitted_again_when_no_thread_could_be_started(
    plain: RewardManager, judge: JudgeServer
) -> None:
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def submit() -> None:
        threading.stack_size(2**47)  # No address space is as large.
        with pytest.raises(RuntimeError, match="thread"):
            plain.score(rollout("threads"))
        threading.stack_size(0)
        sender.send(plain.score(rollout("threads")).result(60).reward)

    child = context.Process(target=submit)
    child.start()
    assert receiver.poll(60)
    assert receiver.recv() == pytest.approx(1.5)
    child.join()
    assert len(judge.requests) == 1


def test_a_forked_process_is_told_where_a_score_is_pending(
    plain: RewardManager, judge: JudgeServer
) -> None:
    judge.set_plan(Action(text="Final score: 5", hold=True))
    pending = plain.score_many([rollout("pending at the fork")])
    judge.wait_until(lambda log: len(log) == 1)
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def wait() -> None:
        for wait_for in (pending.result, pending.scores[0].result):
            with pytest.raises(BackendUnavailable) as failure:
                wait_for()
            sender.send(str(failure.value))
        again = plain.score(rollout("pending at the fork"))
        sender.send("submitted again")
        sender.send(again.result(60).reward)

    child = context.Process(target=wait)
    child.start()
    told = []
    while "submitted again" not in told:
        assert receiver.poll(60)
        told.append(receiver.recv())
    judge.release()
    assert receiver.poll(60)
    assert receiver.recv() == pending.result(60)[0].reward
    child.join()
    assert ["submit the rollout again" in text for text in told[:2]] == [True, True]
    assert len(judge.requests) == 1
