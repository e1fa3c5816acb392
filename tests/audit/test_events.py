"""Guard: every event on the closed list is recorded somewhere, tested somewhere, and refuses other details."""

import re
from pathlib import Path

import pytest

from capecontrol.audit import events

ROOT = Path(__file__).parent.parent.parent
CODE = "\n".join(
    path.read_text() for path in (ROOT / "capecontrol").rglob("*.py") if path.name not in ("events.py", "sentences.py")
)
TESTS = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py") if path != Path(__file__))
CONSTANTS = {value.name: name for name, value in vars(events).items() if isinstance(value, events.Event)}


@pytest.mark.parametrize("name", sorted(events.all_events()))
def test_an_event_is_recorded_and_tested(name: str) -> None:
    constant = CONSTANTS[name]
    assert re.search(rf"events\.{constant}\b", CODE), f"nothing records {name}: take it off the list"
    assert name in TESTS or f"events.{constant}" in TESTS, f"no test exercises {name}"


@pytest.mark.parametrize("name", sorted(events.all_events()))
def test_a_stored_name_is_plain(name: str) -> None:
    assert re.fullmatch(r"[a-z]+(_[a-z]+)+", name)
    assert len(name) <= 50, "the inherited column holds 50 characters"


def test_a_name_cannot_be_listed_twice_or_badly() -> None:
    for name, category in (("user_login", "authentication"), ("new_event", "weather")):
        with pytest.raises(ValueError, match="listed"):
            events._event(name, category)
