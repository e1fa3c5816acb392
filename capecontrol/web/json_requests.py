"""Reading a JSON body: strictly, and refusing in words."""

import json
from typing import Any, TypeVar

from flask import abort, request
from pydantic import BaseModel, ValidationError

from capecontrol.errors import Invalid, NotReadable, UnsupportedContent
from capecontrol.web.text_rules import printable_key, spoken

Shape = TypeVar("Shape", bound=BaseModel)

_SENTENCES = {
    "missing": "{label} is required.",
    "string_type": "{label} must be text.",
    "string_unicode": "{label} must not contain half a character (a lone surrogate).",
    "string_too_long": "{label} is too long: at most {max_length} characters.",
    "too_long": "{label} is too long: at most {max_length}.",
    "bool_type": "{label} must be true or false.",
    "bool_parsing": "{label} must be true or false.",
    "int_type": "{label} must be a whole number.",
    "int_parsing": "{label} must be a whole number.",
    "int_from_float": "{label} must be a whole number.",
    "int_parsing_size": "{label} has too many digits.",
    "greater_than_equal": "{label} must be at least {ge}.",
    "less_than_equal": "{label} must be at most {le}.",
    "literal_error": "{label} must be {expected}.",
    "list_type": "{label} must be a list.",
    "model_type": "{label} must be an object.",
}


def read_json(shape: type[Shape]) -> Shape:
    """Return the request's JSON body as `shape`.

    Raises UnsupportedContent for another content type, 413 for a body over the limit, NotReadable for broken JSON or
    text that is not UTF-8, and Invalid with a sentence a field where the shape does not fit.
    """
    if request.mimetype != "application/json" and not request.mimetype.endswith("+json"):
        raise UnsupportedContent
    body = request.get_data(cache=True)
    if request.max_content_length is not None and len(body) >= request.max_content_length:
        abort(413)  # a body in chunks has no length to refuse beforehand, and is cut at the limit without a word
    return check_shape(shape, _parse(body))


def idempotency_key() -> str | None:
    """Return the request's `Idempotency-Key`, or None. Raises Invalid."""
    key = request.headers.get("Idempotency-Key")
    if key is None:
        return None
    try:
        return printable_key(key, label="Idempotency-Key")
    except ValueError as error:
        raise Invalid({"idempotency_key": [str(error)]}) from None


def text_in_body(name: str) -> str | None:
    """Return a text field of the body whatever else is wrong with it, or None; for the record of what was refused."""
    try:
        value = _parse(request.get_data(cache=True)).get(name)
    except (NotReadable, Invalid):
        return None
    return value if isinstance(value, str) else None


def read_query(shape: type[Shape]) -> Shape:
    """Return the query string as `shape`; empty values mean absent. Raises Invalid."""
    return check_shape(shape, {name: value for name, value in request.args.items() if value != ""})


def check_shape(shape: type[Shape], fields: dict[str, Any]) -> Shape:
    """Return the fields as `shape`. Raises Invalid with sentences for people."""
    try:
        return shape.model_validate(fields)
    except ValidationError as error:
        raise Invalid(_sentences(error)) from None


def _parse(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body.decode("utf-8"), parse_constant=_refuse_constant)
    except UnicodeDecodeError:
        raise NotReadable("The body must be UTF-8 text.") from None
    except (ValueError, RecursionError):
        raise NotReadable("The body must be valid JSON.") from None
    if not isinstance(value, dict):
        raise Invalid({"body": ["The body must be a JSON object."]})
    return value


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _sentences(error: ValidationError) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for problem in error.errors(include_url=False, include_input=False):
        field = str(problem["loc"][0]) if problem["loc"] else "body"
        words = {"label": spoken(field), **problem.get("ctx", {})}
        sentence = _SENTENCES.get(problem["type"])
        text = sentence.format(**words) if sentence else problem["msg"].removeprefix("Value error, ")
        found.setdefault(field, []).append(text)
    return found
