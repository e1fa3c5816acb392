"""Guard: every event on the closed list is recorded somewhere, tested somewhere, and refuses other details."""

import ast
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import pytest

from capecontrol.audit import events

pytestmark = pytest.mark.guard

ROOT = Path(__file__).parent.parent.parent
CONSTANTS = {value.name: name for name, value in vars(events).items() if isinstance(value, events.Event)}


def sources() -> list[str]:
    """Return the code that could record an event: not the list itself, and not the sentences about it."""
    apart = {ROOT / "capecontrol" / "audit" / name for name in ("events.py", "sentences.py")}
    return [path.read_text() for path in (ROOT / "capecontrol").rglob("*.py") if path not in apart]


def exercises() -> list[str]:
    """Return the tests that could exercise an event: those that look at what was recorded.

    This guard and that of the sentences only know the names; tests of reading store their rows themselves.
    """
    names = ("events", "sentences", "queries", "views", "api")
    apart = {ROOT / "tests" / "audit" / f"test_{name}.py" for name in names}
    return [path.read_text() for path in (ROOT / "tests").rglob("test_*.py") if path not in apart]


@cache
def words(source: str) -> set[str]:
    """Return the texts and the dotted names of a module; comments and names of functions are none."""
    return {
        node.value if isinstance(node, ast.Constant) else ast.unparse(node)
        for node in ast.walk(ast.parse(source))
        if (isinstance(node, ast.Constant) and isinstance(node.value, str)) or isinstance(node, ast.Attribute)
    }


def is_recorded(name: str, texts: Iterable[str]) -> bool:
    return any(re.search(rf"\bevents\.{CONSTANTS[name]}\b", text) for text in texts)


def is_exercised(name: str, texts: Iterable[str]) -> bool:
    """Say whether a test names the event: by its constant, as a text, or quoted in a statement that looks it up."""
    return any(
        {name, f"events.{CONSTANTS[name]}"} & (found := words(text)) or any(f"'{name}'" in word for word in found)
        for text in texts
    )


def test_every_event_is_recorded_and_tested() -> None:
    code, tests = sources(), exercises()
    for name in sorted(events.all_events()):
        assert is_recorded(name, code), f"nothing records {name}: take it off the list"
    untested = sorted(name for name in events.all_events() if not is_exercised(name, tests))
    assert untested == [], "let a test look at what is stored"


def test_the_guard_sees_an_event_that_nobody_records_or_tests() -> None:
    assert is_recorded("user_login", ["record(events.USER_LOGIN, actor=None)"])
    assert not is_recorded("user_login", ["record(events.USER_LOGIN_FAILED, actor=None)"])
    assert is_exercised("user_login", ['assert stored == ["user_login"]'])
    assert is_exercised("user_login", ["assert event.name == events.USER_LOGIN.name"])
    assert not is_exercised("user_login", ["# user_login", 'x = "user_login_failed"', "def test_user_login(): ..."])


@pytest.mark.parametrize("name", sorted(events.all_events()))
def test_a_stored_name_is_plain(name: str) -> None:
    assert re.fullmatch(r"[a-z]+(_[a-z]+)+", name)
    assert len(name) <= 50, "the inherited column holds 50 characters"


def test_a_name_cannot_be_listed_twice_or_badly() -> None:
    for name, category in (("user_login", "authentication"), ("new_event", "weather")):
        with pytest.raises(ValueError, match="listed"):
            events._event(name, category)
