"""Nobody holds a database connection while a password is hashed, or while waiting for that: hashes are slow, the pool
is small, and everybody else would wait for both."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from argon2 import PasswordHasher
from flask import Flask

from capecontrol import create_app
from capecontrol.extensions import db
from tests.conftest import dispose, settings_for
from tests.people import PASSWORD, make_person

APPLICATION = {"email": "lerato@example.com", "password": PASSWORD, "full_name": "Lerato Dube"}


@pytest.fixture
def served(databases) -> Iterator[Flask]:
    """Yield an application that hashes one password at a time, on a database of its own."""
    with databases.clone() as url:
        app = create_app(settings_for(url, password_hash_slots=1))
        yield app
        dispose(app)


@pytest.fixture
def held(served: Flask) -> Callable[[], int]:
    """Return a function that counts the connections in use, of every pool; any thread may call it."""
    with served.app_context():
        pools = [engine.pool for engine in db.engines.values()]
    return lambda: sum(pool.checkedout() for pool in pools)


def watch(monkeypatch: pytest.MonkeyPatch, look: Callable[[], None]) -> None:
    """Call `look` in the middle of each hash and each verification, on the thread that does it."""
    for name in ("hash", "verify"):
        original = getattr(PasswordHasher, name)

        def looked_at(self: PasswordHasher, *arguments: Any, original: Any = original) -> Any:
            look()
            return original(self, *arguments)

        monkeypatch.setattr(PasswordHasher, name, looked_at)


def register(app: Flask, **headers: str) -> int:
    return app.test_client().post("/api/auth/v2/register", json=APPLICATION, headers=headers).status_code


def sign_in(app: Flask, email: str) -> int:
    body = {"email": email, "password": PASSWORD}
    return app.test_client().post("/api/auth/v2/login", json=body).status_code


def test_a_hash_is_made_with_no_connection_held(
    served: Flask, held: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    person = make_person(served)
    seen: list[int] = []
    watch(monkeypatch, lambda: seen.append(held()))
    key = {"Idempotency-Key": "once-and-again"}
    with ThreadPoolExecutor(1) as caller:  # a thread of its own each, as under gunicorn
        asked = [
            ("a registration", lambda: register(served, **key), 201),
            ("the same again, whose password is verified", lambda: register(served, **key), 201),
            ("a sign-in", lambda: sign_in(served, person.email), 200),
            (
                "a sign-in to no account, whose time is spent all the same",
                lambda: sign_in(served, "no@example.com"),
                401,
            ),
        ]
        for what, ask, status in asked:
            seen.clear()
            assert caller.submit(ask).result() == status, what
            assert seen, f"{what} came to no hash"
            assert set(seen) == {0}, what


@pytest.mark.parametrize("email", ["known@example.com", "fresh@example.com"])
def test_where_accounts_are_private_neither_a_known_nor_an_unknown_address_holds_one(
    databases, monkeypatch: pytest.MonkeyPatch, email: str
) -> None:
    with databases.clone() as url:
        app = create_app(settings_for(url, account_privacy="private"))
        make_person(app, email="known@example.com")
        with app.app_context():
            pools = [engine.pool for engine in db.engines.values()]
        seen: list[int] = []
        watch(monkeypatch, lambda: seen.append(sum(pool.checkedout() for pool in pools)))
        body = {**APPLICATION, "email": email}
        headers = {"Idempotency-Key": "once"}  # which is looked for before
        with ThreadPoolExecutor(1) as caller:
            register = caller.submit(app.test_client().post, "/api/auth/v2/register", json=body, headers=headers)
            assert register.result().status_code == 202
            sign_in = caller.submit(app.test_client().post, "/api/auth/v2/login", json=body)
            assert sign_in.result().status_code == 401
        assert seen == [0, 0]
        dispose(app)


@pytest.mark.parametrize("who", ["newcomer", "person"])
def test_one_waits_for_a_hash_with_no_connection_held(
    served: Flask, held: Callable[[], int], monkeypatch: pytest.MonkeyPatch, who: str
) -> None:
    person = make_person(served)
    is_hashing, may_end = threading.Event(), threading.Event()

    def hold() -> None:
        is_hashing.set()
        may_end.wait(10)

    watch(monkeypatch, hold)
    ask = (lambda: register(served)) if who == "newcomer" else (lambda: sign_in(served, person.email))
    with ThreadPoolExecutor(2) as callers:
        first = callers.submit(ask)
        assert is_hashing.wait(10)
        second = callers.submit(ask)
        quiet, ends_at = 0, time.monotonic() + 0.9  # the gate lets nobody wait longer than a second
        while quiet < 10 and time.monotonic() < ends_at:
            time.sleep(0.02)
            quiet = quiet + 1 if held() == 0 else 0
        is_waiting = not second.done()
        may_end.set()
        first.result()
        second.result()
    assert is_waiting, "the second did not come to the gate"
    assert quiet == 10, "a connection was held while waiting"
