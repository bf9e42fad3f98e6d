"""One worker's part of the request and token windows."""

from oyer.tasks.coordination.token_windows import TokenWindows


def test_a_call_charged_to_two_blocks_returns_its_rest_to_the_newer_one() -> None:
    ledger = TokenWindows()
    ledger.grant(1, 10.0, 0, 10)
    ledger.grant(2, 10.0, 1, 90)
    assert ledger.spend(5.0, 1, 50) == 2
    assert sorted(ledger.changes()) == [("t", 1, -10), ("t", 2, 10)]
    ledger.charge(2, 0, -45)
    assert sorted(ledger.changes()) == [("t", 1, -10), ("t", 2, -35)]
    assert ledger.total(oldest=2) == (1, 55)


def test_a_call_needs_its_whole_cost() -> None:
    ledger = TokenWindows()
    ledger.grant(1, 10.0, 1, 49)
    assert ledger.spend(5.0, 1, 50) is None
    assert ledger.balance(5.0) == (1, 49)


def test_an_old_block_cannot_be_spent_and_returns_once() -> None:
    ledger = TokenWindows()
    ledger.grant(1, 10.0, 3, 30)
    assert ledger.balance(10.0) == (0, 0)
    changes = ledger.changes()
    assert sorted(changes) == [("q", 1, -3), ("t", 1, -30)]
    ledger.confirm(changes)
    assert ledger.changes() == []


def test_after_a_lost_answer_returns_are_dropped_and_charges_repeated() -> None:
    ledger = TokenWindows()
    ledger.grant(1, 10.0, 3, 0)
    ledger.balance(10.0)
    ledger.charge(2, 1, 0)
    ledger.doubt(ledger.changes())
    assert ledger.changes() == [("q", 2, 1)]


def test_nothing_returns_to_a_bucket_that_has_left_the_window() -> None:
    ledger = TokenWindows()
    ledger.grant(1, 10.0, 0, 30)
    ledger.spend(5.0, 0, 30)
    assert ledger.total(oldest=2) == (0, 0)
    ledger.charge(1, 0, -30)
    assert ledger.changes() == []
