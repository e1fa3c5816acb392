"""Fixtures about people: accounts made through the services, and visitors who are signed in."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

import pytest
from flask import Flask
from flask.testing import FlaskClient

from capecontrol.audit.actor import Actor
from capecontrol.auth import account, credentials, registration
from tests.visitor import Visitor

PASSWORD = "Table-Mountain-1085!"
_numbers = count(1)


@dataclass(frozen=True)
class Person:
    """An invented person with an account and a bearer token."""

    id: str
    email: str
    name: str
    token: str
    role: str = "client"

    @property
    def actor(self) -> Actor:
        """The person as commands know them."""
        return Actor(self.id, self.email, self.role, self.name)

    @property
    def bearer(self) -> dict[str, str]:
        """The header of a program that acts for the person."""
        return {"Authorization": f"Bearer {self.token}"}


def make_person(app: Flask, *, email: str | None = None, name: str = "Thandi Nkosi", role: str = "client") -> Person:
    """Open an account through the service; valid by default, keywords to vary."""
    email = email or f"person{next(_numbers)}@example.com"
    with app.app_context():
        done = registration.register(
            registration.Application(
                email=email, password=PASSWORD, full_name=name, user_role="client" if role == "admin" else role
            ),
            actor=None,
            method="api",
            mint=credentials.token,
        )
        user = account.promote(email, actor=None) if role == "admin" else done.user
        return Person(user.id, user.email, name, done.credential.secret, user.user_role)


@pytest.fixture
def person(app: Flask) -> Person:
    """Return an ordinary person."""
    return make_person(app)


@pytest.fixture
def admin(app: Flask) -> Person:
    """Return an administrator."""
    return make_person(app, name="Ayanda Dlamini", role="admin")


@pytest.fixture
def noise(app: Flask) -> Person:
    """Return somebody else, who must never show up in anybody's page."""
    return make_person(app, email="noise@example.com", name="Noise Maker")


@pytest.fixture
def visitor(app: Flask) -> Visitor:
    """Return a browser nobody is signed in with."""
    return Visitor(app)


@pytest.fixture
def sign_in(app: Flask) -> Callable[..., Visitor]:
    """Return a function that gives a browser in which somebody is signed in: `sign_in()`, `sign_in(admin)`."""

    def signed_in(whom: Person | None = None, *, remember: bool = False) -> Visitor:
        whom = whom or make_person(app)
        visitor = Visitor(app)
        visitor.visit("/login")
        visitor.send("/login", email=whom.email, password=PASSWORD, remember="y" if remember else None)
        return visitor

    return signed_in


@pytest.fixture
def as_program(client: FlaskClient, person: Person) -> Callable[..., object]:
    """Return a function that calls the JSON with a person's token."""

    def call(method: str, path: str, **kwargs: object) -> object:
        return client.open(path, method=method, headers=person.bearer, **kwargs)

    return call
