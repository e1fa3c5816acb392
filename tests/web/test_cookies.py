"""Signed cookies, when the dynos that write and read them have different clocks."""

import time
from collections.abc import Callable

import pytest
from itsdangerous import URLSafeTimedSerializer

from capecontrol.web import cookies
from tests.visitor import Visitor

SIGNER = URLSafeTimedSerializer("a key", salt="tests")


def signed(content: str, monkeypatch: pytest.MonkeyPatch, *, ahead: float) -> str:
    """Return what a dyno signs whose clock is so many seconds ahead of ours."""
    there = time.time() + ahead
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(time, "time", lambda: there)
        return str(SIGNER.dumps(content))


@pytest.mark.parametrize("ahead", [5, 0, -50])
def test_what_any_dyno_has_signed_is_read(monkeypatch: pytest.MonkeyPatch, ahead: float) -> None:
    assert cookies.load(SIGNER, signed("mine", monkeypatch, ahead=ahead), lasts_seconds=60) == "mine"


def test_what_was_signed_too_long_ago_is_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cookies.load(SIGNER, signed("mine", monkeypatch, ahead=-62), lasts_seconds=60) is None


@pytest.mark.parametrize("text", ["", "mine", "a.b.c"])
def test_what_nobody_has_signed_is_nothing(text: str) -> None:
    assert cookies.load(SIGNER, text, lasts_seconds=60) is None


def test_what_somebody_else_has_signed_is_nothing() -> None:
    theirs = str(URLSafeTimedSerializer("another key", salt="tests").dumps("mine"))
    assert cookies.load(SIGNER, theirs, lasts_seconds=60) is None


@pytest.mark.parametrize("ahead", [3, -3])
def test_one_stays_signed_in_though_another_dynos_clock_is_not_ours(
    sign_in: Callable[..., Visitor], monkeypatch: pytest.MonkeyPatch, ahead: float
) -> None:
    there = time.time() + ahead
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(time, "time", lambda: there)
        visitor = sign_in()
    assert visitor.visit("/account").answer.request.path == "/account"
