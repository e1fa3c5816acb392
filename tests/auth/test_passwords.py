"""Passwords: the rule, the hash, and the gate in front of it."""

import contextvars
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import bcrypt
import pytest
from argon2 import PasswordHasher

from capecontrol import clock
from capecontrol.auth import passwords
from capecontrol.errors import Overloaded
from tests.live_server import REPOSITORY

GOOD = "Table-Mountain-1085!"


@pytest.fixture(autouse=True)
def configured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passwords, "_hashing", None)  # what the application was built with comes back afterwards
    passwords.configure(slots=1, threads=8, memory_kib=19456, passes=2)


@pytest.mark.parametrize(
    "password",
    [GOOD, "correct horse battery", "пароль-для-горы", "🦭🌊🪨🐧🦈🐚🌬️⛰️🧭⚓🛟🐬", "x" * 11 + "7q!", "a" * 128 + "bc"],
)
def test_long_enough_is_good_enough_whatever_it_is_made_of(password: str) -> None:
    assert passwords.problems(password) == []


@pytest.mark.parametrize(
    "password",
    [
        "password1234",
        "Password1234!",
        "P@ssw0rd1234",
        "passwordpassword",
        "111111111111",
        "abcdefghijklm",
        "qwertyuiop12",
        "letmeinletmein",
        "capecontrol1",
        "CapeControl-26",
        "thandinkosi1",
        "thandi1234567"[:12],
    ],
)
def test_what_attackers_try_first_is_refused(password: str) -> None:
    assert passwords.problems(password, email="thandi@example.com", name="Thandi Nkosi") != []


def test_the_length_is_counted_in_characters() -> None:
    assert passwords.problems("ñandú-vuela") != []
    assert passwords.problems("ñandú-vuela!") == []
    assert passwords.problems("x1y2-z3" * 60) != []


def test_a_password_that_would_be_refused_scores_low() -> None:
    assert passwords.score("Password1234!") <= 20
    assert passwords.score(GOOD) == 100
    assert passwords.score("only lower case words") >= 60


def test_the_hash_is_argon2id_with_owasps_parameters() -> None:
    stored = passwords.hash_for_registration(GOOD)
    assert stored.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert passwords.verify_for_sign_in(stored, GOOD) == (True, None)
    assert passwords.verify_for_sign_in(stored, GOOD + " ") == (False, None)


def test_an_inherited_bcrypt_hash_is_accepted_and_replaced() -> None:
    stored = bcrypt.hashpw(GOOD.encode(), bcrypt.gensalt(4)).decode()
    is_right, fresh = passwords.verify_for_sign_in(stored, GOOD)
    assert is_right
    assert fresh is not None
    assert passwords.verify_for_sign_in(fresh, GOOD) == (True, None)
    assert passwords.verify_for_sign_in(stored, "wrong") == (False, None)


def test_a_bcrypt_password_beyond_72_bytes_still_opens_its_account() -> None:
    long = "mountain " * 12
    stored = bcrypt.hashpw(long.encode()[:72], bcrypt.gensalt(4)).decode()
    assert passwords.verify_for_sign_in(stored, long)[0]


def test_a_weaker_argon2_hash_is_replaced() -> None:
    weak = PasswordHasher(time_cost=1, memory_cost=8192, parallelism=1).hash(GOOD)
    is_right, fresh = passwords.verify_for_sign_in(weak, GOOD)
    assert is_right
    assert fresh is not None
    assert "m=19456,t=2" in fresh


def test_a_stored_hash_that_asks_for_too_much_memory_is_not_computed() -> None:
    stored = "$argon2id$v=19$m=9999999,t=2,p=1$c29tZXNhbHRzb21lc2FsdA$" + "A" * 43
    assert passwords.verify_for_sign_in(stored, GOOD) == (False, None)


@pytest.mark.parametrize("stored", [None, "", "nonsense", "$argon2id$broken"])
def test_without_a_hash_nobody_gets_in(stored: str | None) -> None:
    assert passwords.verify_for_sign_in(stored, GOOD) == (False, None)


def test_two_ways_to_write_a_character_are_one_password() -> None:
    stored = passwords.hash_for_registration("Zoe\u0308-at-the-sea")
    assert passwords.verify_for_sign_in(stored, "Zo\u00eb-at-the-sea")[0]


@contextmanager
def held(gate: passwords.Gate) -> Iterator[None]:
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
    gate = passwords.Gate(permits=1, waiters=1)
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


def test_sign_ins_have_permits_of_their_own() -> None:
    hashing = passwords._ready()
    with held(hashing.registration):
        assert passwords.verify_for_sign_in(None, GOOD) == (False, None)


def test_work_whose_caller_has_left_is_not_begun() -> None:
    gate = passwords.Gate(permits=1, waiters=1)

    def come_too_late() -> float:
        clock.set_deadline(clock.monotonic() - 1)
        started = clock.monotonic()
        with pytest.raises(Overloaded):
            gate.run(lambda: None)
        return clock.monotonic() - started

    with held(gate):
        assert contextvars.copy_context().run(come_too_late) < passwords.GATE_WAIT_SECONDS


def test_work_whose_caller_has_left_is_not_begun_at_a_free_permit_either() -> None:
    def come_too_late() -> None:
        clock.set_deadline(clock.monotonic() - 1)
        with pytest.raises(Overloaded):
            passwords.Gate(permits=1, waiters=1).run(lambda: pytest.fail("nobody waits for this"))

    contextvars.copy_context().run(come_too_late)


def test_who_would_wait_too_long_is_refused_at_once() -> None:
    gate = passwords.Gate(permits=1, waiters=7, seconds=0.5)
    with held(gate), ThreadPoolExecutor(1) as other:
        first = other.submit(gate.run, lambda: "in")
        while gate._inside < 2:
            time.sleep(0.01)
        started = clock.monotonic()
        with pytest.raises(Overloaded):
            gate.run(lambda: None)
        assert clock.monotonic() - started < passwords.GATE_WAIT_SECONDS / 2
        with pytest.raises(Overloaded):
            first.result()


def test_somebody_may_wait_for_each_permit_however_slow_the_hash_is() -> None:
    """Or it would be idle from its end until the next one comes."""
    gate = passwords.Gate(permits=2, waiters=6, seconds=10.0)
    for _ in range(4):
        gate._enter()
    with pytest.raises(Overloaded):
        gate._enter()


@pytest.mark.parametrize(("seconds", "longest"), [(0.05, 1.0), (0.5, 0.9), (1.0, 0.4), (10.0, 0.25)])
def test_the_slower_the_hash_the_shorter_the_wait_for_it(seconds: float, longest: float) -> None:
    """So that who is let in is answered within a second and a half."""
    gate = passwords.Gate(permits=1, waiters=1, seconds=seconds)
    assert gate._longest_wait() == pytest.approx(longest)


def test_where_hashes_differ_much_the_slow_ones_are_counted_on() -> None:
    gate = passwords.Gate(permits=1, waiters=1, seconds=0.2)
    for pause in (0.0, 0.4) * 8:
        gate.run(lambda pause=pause: time.sleep(pause))
    assert 0.1 < gate._deviation < 0.3
    assert gate._longest_wait() < 1.0


def test_the_gate_learns_how_long_its_work_takes() -> None:
    gate = passwords.Gate(permits=1, waiters=1, seconds=10.0)
    for _ in range(60):
        gate.run(lambda: None)
    assert gate.seconds < 1


def test_a_permit_is_given_back_when_the_work_fails() -> None:
    gate = passwords.Gate(permits=1, waiters=0)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            gate.run(lambda: 1 / 0)


def test_hashes_run_on_as_many_threads_as_there_are_permits() -> None:
    """Each thread that hashes keeps a hash's memory, so the requests' threads must not."""
    gate = passwords.Gate(permits=2, waiters=20)
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


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="how glibc keeps memory")
def test_a_hash_finds_its_memory_as_the_hash_before_left_it() -> None:
    """Where threads share a pool of memory, what a request keeps there is in the way of the next hash."""
    program = """
import re, threading
from pathlib import Path
from capecontrol.auth import passwords
passwords.configure(slots=1, threads=64, memory_kib=19456, passes=2)
is_over, kept = threading.Event(), []
def work():
    while not is_over.wait(0.002):
        kept.append(bytes(1500))
threads = [threading.Thread(target=work) for _ in range(64)]
for thread in threads:
    thread.start()
for _ in range(12):
    passwords.hash_for_registration("seven grey herons at low tide")
is_over.set()
print(max(int(found) for found in re.findall(r"Rss: *([0-9]+) kB", Path("/proc/self/smaps").read_text())))
"""
    run = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert 19_000 < int(run.stdout) < 30_000  # a second hash lies beside the first otherwise: 39,000


def test_of_the_word_lists_no_words_stay_in_memory() -> None:
    """They are 12 MB in each process, and no collector comes by while the application is built (wsgi.py)."""
    program = """
import gc, sys
gc.disable()
from capecontrol.auth import passwords
passwords.configure(slots=1, threads=8, memory_kib=19456, passes=2)
kinds = dict | list | set | frozenset
print([len(found) for found in gc.get_objects() if isinstance(found, kinds) and len(found) > 9999])
print([name for name in sys.modules if name.startswith("zxcvbn")])
print([word for word in ("password", "no-such-word") if passwords._is_listed(word)])
"""
    run = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert run.stdout.splitlines() == ["[]", "[]", "['password']"]
