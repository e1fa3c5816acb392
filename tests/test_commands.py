"""What somebody at a terminal is told when a command cannot do what it is for."""

from collections.abc import Iterator

import pytest
from flask import Flask

from capecontrol import create_app
from tests.audit.faults import away
from tests.conftest import dispose, settings_for
from tests.people import make_person

NOBODY_THERE = "postgresql://postgres@127.0.0.1:9/nothing"


@pytest.fixture
def alone() -> Iterator[Flask]:
    """Yield an application whose database does not answer."""
    app = create_app(settings_for(NOBODY_THERE))
    yield app
    dispose(app)


@pytest.mark.parametrize(
    "command",
    [
        "audit seal",
        "audit prove 1",
        "audit recount",
        "audit purge",
        "audit purge --dry-run",
        "audit erase somebody",
        "auth list",
        "auth create-admin ayanda@example.com",
        "demo",
    ],
)
def test_a_database_that_does_not_answer_is_a_sentence_and_no_traceback(alone: Flask, command: str) -> None:
    answer = alone.test_cli_runner().invoke(args=command.split())
    assert answer.exit_code == 1
    assert isinstance(answer.exception, SystemExit)
    assert answer.output.splitlines()[-1].startswith("Error: The database could not do it (OperationalError)")
    assert "127.0.0.1" not in answer.output


def test_an_export_that_cannot_be_read_is_a_sentence_too(alone: Flask) -> None:
    answer = alone.test_cli_runner().invoke(args=["audit", "export"])
    assert answer.exit_code == 1
    assert answer.output.splitlines()[-1].startswith("Error: The audit log cannot be read right now.")


def test_the_sentence_says_by_which_code_the_database_refused(committed_app: Flask) -> None:
    with away(committed_app):
        answer = committed_app.test_cli_runner().invoke(args=["audit", "prove", "1"])
    assert (answer.exit_code, "(42P01)" in answer.output) == (1, True)


def test_a_refusal_is_a_sentence_too(committed_app: Flask) -> None:
    make_person(committed_app)
    for command in (["audit", "prove", "1"], ["audit", "prove", "nothing"], ["auth", "create-admin", "nobody"]):
        answer = committed_app.test_cli_runner().invoke(args=command, input="short\n")
        assert (answer.exit_code, answer.output.startswith("Error: ")) == (1, True)
