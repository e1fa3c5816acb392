"""The circuit breaker: five failures, thirty seconds without a try, then one (R12)."""

import threading

import pytest
from flask import Flask

from capecontrol import clock
from capecontrol.audit import events, recorder
from capecontrol.audit.breaker import FAILURES, OPEN_SECONDS, WITHIN_SECONDS, Breaker
from capecontrol.database import AUDIT
from capecontrol.extensions import db
from tests.audit.faults import act, acts_recorded, away, locked, spilled


class Clock:
    """A clock that goes on only when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Clock:
    stopped = Clock()
    monkeypatch.setattr(clock, "monotonic", stopped)
    return stopped


def fail(breaker: Breaker, times: int) -> None:
    for _ in range(times):
        assert breaker.admit()
        breaker.settle(False)


def test_it_opens_with_the_fifth_failure_and_not_before(time: Clock) -> None:
    breaker = Breaker()
    fail(breaker, FAILURES - 1)
    assert breaker.seconds_open == 0
    fail(breaker, 1)
    assert breaker.seconds_open == OPEN_SECONDS
    assert not breaker.admit()


def test_failures_far_apart_do_not_open_it(time: Clock) -> None:
    breaker = Breaker()
    for _ in range(3 * FAILURES):
        fail(breaker, 1)
        time.now += WITHIN_SECONDS / (FAILURES - 1) + 0.01
    assert breaker.seconds_open == 0


def test_a_success_forgets_the_failures_so_one_refused_row_keeps_out_no_other(time: Clock) -> None:
    breaker = Breaker()
    for _ in range(3):
        fail(breaker, FAILURES - 1)
        assert breaker.admit()
        breaker.settle(True)
    assert breaker.seconds_open == 0


def test_after_half_a_minute_one_caller_finds_out_and_the_others_still_do_not_try(time: Clock) -> None:
    breaker = Breaker()
    fail(breaker, FAILURES)
    time.now += OPEN_SECONDS - 0.01
    assert not breaker.admit()
    time.now += 0.02
    assert [breaker.admit() for _ in range(4)] == [True, False, False, False]


def test_a_probe_that_fails_opens_it_again_and_one_that_writes_closes_it(time: Clock) -> None:
    breaker = Breaker()
    fail(breaker, FAILURES)
    time.now += OPEN_SECONDS + 0.01
    fail(breaker, 1)
    assert not breaker.admit()
    time.now += OPEN_SECONDS + 0.01
    assert breaker.admit()
    breaker.settle(True)
    assert all(breaker.admit() for _ in range(10))


def test_a_probe_that_came_to_nothing_leaves_it_to_the_next_one(time: Clock) -> None:
    """The probe's own transaction may die for a reason that says nothing about the table."""
    breaker = Breaker()
    fail(breaker, FAILURES)
    time.now += OPEN_SECONDS + 0.01
    assert breaker.admit()
    breaker.settle(None)
    assert [breaker.admit(), breaker.admit()] == [True, False]


def test_no_more_than_five_pay_for_finding_out_however_many_come_at_once(time: Clock) -> None:
    breaker = Breaker()
    first = threading.Barrier(FAILURES)
    paid: list[int] = []

    def try_to_write(number: int) -> None:
        if number < FAILURES:
            first.wait(10)
        if breaker.admit():
            paid.append(number)
            breaker.settle(False)

    threads = [threading.Thread(target=try_to_write, args=(number,)) for number in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(paid) == FAILURES


def test_while_some_are_finding_out_nobody_joins_them_beyond_five(time: Clock) -> None:
    breaker = Breaker()
    assert all(breaker.admit() for _ in range(3))
    breaker.settle(False)  # two are still at it
    assert [breaker.admit() for _ in range(4)] == [True, True, False, False]


def test_nobody_is_kept_out_where_nothing_failed() -> None:
    breaker = Breaker()
    assert all(breaker.admit() for _ in range(100))


def test_with_the_breaker_open_an_act_does_not_touch_the_table(
    committed_app: Flask, capsys: pytest.CaptureFixture[str], time: Clock
) -> None:
    with locked(committed_app):
        for number in range(FAILURES + 2):
            act(committed_app, number)
    reasons = [line["reason"] for line in spilled(capsys.readouterr().err)]
    assert reasons == ["55P03"] * FAILURES + [recorder.BREAKER_OPEN] * 2


def test_with_the_breaker_open_an_event_says_which_transaction_it_belonged_to(
    committed_app: Flask, capsys: pytest.CaptureFixture[str], time: Clock
) -> None:
    with away(committed_app):
        for number in range(FAILURES + 1):
            act(committed_app, number)
    line = spilled(capsys.readouterr().err)[-1]
    assert line["reason"] == recorder.BREAKER_OPEN
    assert int(line["xid"]) > 0


def test_waiting_in_vain_for_the_connection_is_no_failure_of_the_table(
    committed_app: Flask, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others write something short on the one connection there is; the event waits in the spool all the same."""
    with committed_app.app_context():
        monkeypatch.setattr(db.engines[AUDIT].pool, "_timeout", 0.01)
        with db.engines[AUDIT].connect():
            for _ in range(FAILURES + 1):
                recorder.record_failure(
                    events.ACCESS_DENIED, actor=None, error="no", details={"wanted": "audit.search"}
                )
    assert [line["reason"] for line in spilled(capsys.readouterr().err)] == ["TimeoutError"] * (FAILURES + 1)
    assert recorder.breaker.seconds_open == 0


def test_an_act_after_the_half_minute_writes_to_the_table_again(
    committed_app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    with away(committed_app):
        for number in range(FAILURES):
            act(committed_app, number)
    act(committed_app, 98)
    assert acts_recorded(committed_app) == []
    later = clock.monotonic() + OPEN_SECONDS + 1
    monkeypatch.setattr(clock, "monotonic", lambda: later)
    act(committed_app, 99)
    assert acts_recorded(committed_app) == [(99, True)]
    assert recorder.breaker.seconds_open == 0


def test_however_many_act_at_once_only_five_wait_for_the_lock(
    committed_app: Flask, capsys: pytest.CaptureFixture[str], time: Clock
) -> None:
    with locked(committed_app):
        threads = [threading.Thread(target=act, args=(committed_app, number)) for number in range(24)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    reasons = [line["reason"] for line in spilled(capsys.readouterr().err)]
    assert len(reasons) == 24
    assert reasons.count("55P03") <= FAILURES
    assert set(reasons) <= {"55P03", recorder.BREAKER_OPEN}
