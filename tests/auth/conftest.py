"""Fixtures of accounts that open by mail."""

from collections.abc import Iterator

import pytest
from flask import Flask

from capecontrol import create_app
from tests.auth.mailbox import Mailbox
from tests.conftest import dispose, settings_for

PUBLIC_URL = "https://app.example.com"


@pytest.fixture
def private(databases) -> Iterator[Flask]:
    """Yield an application in which nobody learns who has an account, on a database of its own."""
    with databases.clone() as url:
        app = create_app(
            settings_for(
                url,
                account_privacy="private",
                admin_emails=["Boss@example.com"],
                allowed_hosts=["localhost", "evil.test"],
            )
        )
        yield app
        dispose(app)


@pytest.fixture
def mailbox(private: Flask) -> Mailbox:
    """Return what that application has written to people."""
    return Mailbox(private)
