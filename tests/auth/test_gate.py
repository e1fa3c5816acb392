"""The gate: few run, few wait, nobody longer than it is worth."""

import contextvars
import math
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from capecontrol import clock, line
from capecontrol.auth import passwords
from capecontrol.auth.gate import Gate, _Permits, hashing_threads
from capecontrol.errors import Overloaded


@contextmanager
def held(gate: Gate) -> Iterator[None]:
    """Hold one of the gate's permits, as a hash that takes its time does."""
    leave, inside = threading.Event(), threading.Event()

    def hold() -> None:
        inside.set()
        leave.wait(5)

    holder = threading.Thread(target=gate.run, args=(hold,))
    holder.start()
    assert inside.wait(5)
    try:
        yield
    finally:
        leave.set()
        holder.join(5)


def test_the_gate_lets_as_many_hash_as_it_has_permits_and_few_wait() -> None:
    gate = Gate(permits=1, waiters=1)
    refused: list[bool] = []

    def wait_and_give_up() -> None:
        try:
            gate.run(lambda: refused.append(False))
        except Overloaded:
            refused.append(True)

    with held(gate):
        waiter = threading.Thread(target=wait_and_give_up)
        waiter.start()
        while gate._inside < 2:
            time.sleep(0.01)
        with pytest.raises(Overloaded):
            gate.run(lambda: None)
        waiter.join(5)
        assert refused == [True], "nobody waits longer than the gate's second"
    assert gate.run(lambda: "in") == "in"


def test_who_waits_for_a_permit_has_let_the_next_in_line_begin_before() -> None:
    gate = Gate(permits=1, waiters=1)
    has_let = threading.Event()

    def wait() -> None:
        with line.standing_in_it(has_let.set):
            gate.run(lambda: None)

    with held(gate):
        waiter = threading.Thread(target=wait)
        waiter.start()
        assert has_let.wait(0.9), "before the second is over that it waits"
    waiter.join(5)


def test_who_has_waited_longest_goes_first_also_before_whoever_comes_at_that_moment() -> None:
    permits = _Permits(1)
    order: list[str] = []

    def wait(name: str) -> None:
        assert permits.acquire(seconds=5)
        order.append(name)
        permits.release()

    assert permits.acquire(seconds=0)
    people = [threading.Thread(target=wait, args=(name,)) for name in ("first", "second")]
    for number, person in enumerate(people, 1):
        person.start()
        while len(permits._line) < number:
            time.sleep(0.001)
    permits.release()
    wait("who comes at that moment")
    for person in people:
        person.join(5)
    assert order == ["first", "second", "who comes at that moment"]


def test_who_has_waited_in_vain_takes_no_permit_with_them() -> None:
    permits = _Permits(2)
    assert [permits.acquire(seconds=0.01) for _ in range(3)] == [True, True, False]
    permits.release()
    assert [permits.acquire(seconds=0.01) for _ in range(2)] == [True, False]


def test_sign_ins_have_permits_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passwords, "_hashing", None)
    passwords.configure(slots=1, threads=8, memory_kib=19456, passes=2)
    hashing = passwords._ready()
    gate, signed_in = hashing.registration, threading.Event()

    def hash_until_somebody_signs_in() -> None:
        ends_at = time.monotonic() + 10
        while gate._threads._work_queue.empty() and time.monotonic() < ends_at:
            time.sleep(0.001)

    with ThreadPoolExecutor(4) as storm:
        storm.submit(gate.run, hash_until_somebody_signs_in)
        while gate._inside < 1:
            time.sleep(0.001)
        others = [storm.submit(gate.run, lambda: signed_in.wait(5)) for _ in range(3)]
        while gate._inside < 4:
            time.sleep(0.001)
        assert passwords.verify_for_sign_in(None, "two-lanterns-on-a-pier") == (False, None)
        signed_in.set()
    done = [other.result() for other in others if not isinstance(other.exception(), Overloaded)]
    assert all(done), "it went before those who waited to register"


def test_work_whose_caller_has_left_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(permits=1, waiters=1)

    def come_too_late() -> None:
        clock.set_deadline(clock.monotonic() - 1)
        with pytest.raises(Overloaded):
            gate.run(lambda: None)

    with held(gate):
        monkeypatch.setattr(gate._free, "acquire", lambda **_: pytest.fail("nobody waits for this"))
        contextvars.copy_context().run(come_too_late)


def test_work_whose_caller_has_left_is_not_begun_at_a_free_permit_either() -> None:
    def come_too_late() -> None:
        clock.set_deadline(clock.monotonic() - 1)
        with pytest.raises(Overloaded):
            Gate(permits=1, waiters=1).run(lambda: pytest.fail("nobody waits for this"))

    contextvars.copy_context().run(come_too_late)


def test_who_would_wait_too_long_is_refused_at_once() -> None:
    gate = Gate(permits=1, waiters=7, seconds=0.5)
    with held(gate), ThreadPoolExecutor(1) as other:
        first = other.submit(gate.run, lambda: "in")
        while gate._inside < 2:
            time.sleep(0.01)
        with pytest.raises(Overloaded):
            gate._enter()
        with pytest.raises(Overloaded):
            first.result()


def test_another_may_wait_where_the_hash_before_is_nearly_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or a permit would be free, now and then, for as long as it takes until somebody else comes."""
    gate = Gate(permits=1, waiters=7, seconds=0.5)
    with held(gate):
        gate._enter()
        assert not gate.has_room, "who hashes has just begun, and one waits"
        nearly_done = clock.monotonic() + 0.4
        monkeypatch.setattr(clock, "monotonic", lambda: nearly_done)
        assert gate.has_room
        gate._enter()
        assert not gate.has_room, "that is a hash more to wait for"


def test_who_comes_waits_behind_those_of_the_permit_that_is_free_first(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(permits=2, waiters=8, seconds=0.25)
    with held(gate), held(gate):
        gate._began_at = dict(zip(gate._began_at, (99.9, 99.8), strict=True))
        monkeypatch.setattr(clock, "monotonic", lambda: 100.0)
        takes = [gate._takes_behind(waiting) for waiting in range(4)]
    assert takes == pytest.approx([0.05 + 0.25, 0.15 + 0.25, 0.05 + 0.5, 0.15 + 0.5])


def test_somebody_may_wait_for_each_permit_however_slow_the_hash_is() -> None:
    """Or it would be idle from its end until the next one comes."""
    gate = Gate(permits=2, waiters=6, seconds=10.0)
    for _ in range(4):
        gate._enter()
    with pytest.raises(Overloaded):
        gate._enter()


@pytest.mark.parametrize(("seconds", "longest"), [(0.05, 1.0), (0.5, 0.9), (1.0, 0.4), (10.0, 0.25)])
def test_the_slower_the_hash_the_shorter_the_wait_for_it(seconds: float, longest: float) -> None:
    """So that who is let in is answered within a second and a half."""
    gate = Gate(permits=1, waiters=1, seconds=seconds)
    assert gate._longest_wait() == pytest.approx(longest)


def test_where_hashes_differ_much_the_slow_ones_are_counted_on(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(permits=1, waiters=1, seconds=0.2)
    took = iter((0.0, 400.0) * 8)
    monkeypatch.setattr(clock.Stopwatch, "milliseconds", lambda _: next(took))
    for _ in range(16):
        gate._measured(lambda: None, math.inf)
    assert 0.1 < gate._deviation < 0.3
    assert gate._longest_wait() < 1.0


def test_work_whose_caller_left_behind_the_other_gates_work_is_not_begun() -> None:
    threads = hashing_threads(1)
    busy, quick = (Gate(permits=1, waiters=1, threads=threads) for _ in range(2))

    deadline = clock.monotonic() + 1

    def come_in_time_for_the_permit_alone() -> None:
        clock.set_deadline(deadline)
        with pytest.raises(Overloaded):
            quick.run(lambda: pytest.fail("nobody waits for this"))

    with ThreadPoolExecutor(1) as other:
        other.submit(busy.run, lambda: time.sleep(deadline + 0.1 - clock.monotonic()))
        while busy._inside < 1:
            time.sleep(0.001)
        contextvars.copy_context().run(come_in_time_for_the_permit_alone)


def test_the_gate_learns_how_long_its_work_takes() -> None:
    gate = Gate(permits=1, waiters=1, seconds=10.0)
    for _ in range(60):
        gate.run(lambda: None)
    assert gate.seconds < 1


def test_a_permit_is_given_back_when_the_work_fails() -> None:
    gate = Gate(permits=1, waiters=0)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            gate.run(lambda: 1 / 0)


def test_hashes_run_on_as_many_threads_as_there_are_permits() -> None:
    """Each thread that hashes keeps a hash's memory, so the requests' threads must not."""
    gate = Gate(permits=2, waiters=20)
    ran_on: set[int] = set()

    def hash_one() -> None:
        gate.run(lambda: (time.sleep(0.01), ran_on.add(threading.get_ident())))

    callers = [threading.Thread(target=hash_one) for _ in range(12)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(5)
    assert 1 <= len(ran_on) <= 2
    assert ran_on.isdisjoint({caller.ident for caller in callers})
