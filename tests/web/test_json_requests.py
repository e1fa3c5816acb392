"""What the shapes of the JSON refuse is told in our words, and never in a library's."""

from collections.abc import Iterator
from typing import get_args

from flask import Flask
from flask.testing import FlaskClient
from pydantic import BaseModel, ValidationError

from capecontrol.web import json_requests, openapi

LONG = "x" * 100_000
ONES = [None, True, 7, -1, 1.5, 10**30, "", " ", "x", "\ud800", "a\x00b", "0", "9" * 5_000, LONG]
WRONG = [*ONES, *([one] for one in ONES), [["x"]], ["x"] * 1_000, {}, {"a": "b"}]


def shapes(app: Flask) -> set[type[BaseModel]]:
    """Return what endpoints read, with the shapes inside."""
    described = [operation.description for operation in openapi.list_operations(app)]
    outer = {shape for each in described for shape in (each.body, each.form, each.query) if shape is not None}
    return outer.union(*map(inner_shapes, outer))


def inner_shapes(shape: type[BaseModel]) -> Iterator[type[BaseModel]]:
    for field in shape.model_fields.values():
        for part in get_args(field.annotation):
            if isinstance(part, type) and issubclass(part, BaseModel):
                yield part
                yield from inner_shapes(part)


def kinds_of_mistake(shape: type[BaseModel]) -> Iterator[str]:
    """Yield the kinds of mistake that wrong values make in each field of a shape."""
    for fields in ({}, *({name: value} for name in shape.model_fields for value in WRONG)):
        try:
            shape.model_validate(fields)
        except ValidationError as error:
            yield from (problem["type"] for problem in error.errors(include_url=False, include_context=False))


def test_every_kind_of_mistake_has_a_sentence_and_every_sentence_a_mistake(app: Flask) -> None:
    made = {kind for shape in shapes(app) for kind in kinds_of_mistake(shape)}
    assert made - {"value_error"} == set(json_requests._SENTENCES)


def test_half_a_character_is_refused_in_our_words(client: FlaskClient) -> None:
    answer = client.post("/api/auth/v2/login", json={"email": "\ud800", "password": "x"})
    assert answer.status_code == 422
    assert answer.json["errors"] == {"email": ["Email must not contain half a character (a lone surrogate)."]}
