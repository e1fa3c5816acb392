"""Commands say in a sentence why they could not do it: nobody at a terminal is shown a traceback."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click
from flask.cli import AppGroup
from sqlalchemy.exc import SQLAlchemyError

from capecontrol.database import reason_of
from capecontrol.errors import DomainError


@contextmanager
def in_sentences() -> Iterator[None]:
    """Turn a refusal, or the database's failure, into a sentence and exit code 1. Raises ClickException."""
    try:
        yield
    except DomainError as refusal:
        raise click.ClickException(refusal.detail) from None
    except SQLAlchemyError as failure:
        raise click.ClickException(
            f"The database could not do it ({reason_of(failure)}); `flask --app wsgi doctor` looks why."
        ) from None


class CommandGroup(AppGroup):
    """Commands of which each ends with 1 and a sentence where it is refused or the database fails."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        with in_sentences():
            return super().invoke(ctx)
