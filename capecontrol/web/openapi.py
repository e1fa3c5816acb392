"""The JSON's description of itself: each endpoint says what it takes and answers, and `/api/openapi.json` tells it."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Literal, TypeVar

from flask import Blueprint, Flask, Response, current_app
from pydantic import BaseModel, Field
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from capecontrol.auth.identity import public
from capecontrol.config import Settings
from capecontrol.web.text_rules import LONGEST_KEY

View = TypeVar("View", bound=Callable[..., Any])
Schema = type[BaseModel]
LONGEST_TICKET = 500
Ticket = Literal["required", "optional"] | None

endpoints = Blueprint("openapi_api", __name__)

_JSON = "application/json"
_FORM = "application/x-www-form-urlencoded"
_ARGUMENT = re.compile(r"<(?:(?P<kind>[a-z]+)(?:\([^)]*\))?:)?(?P<name>[a-z_]+)>")
_KINDS: dict[str, dict[str, Any]] = {
    "string": {"type": "string"},
    "uuid": {"type": "string", "format": "uuid"},
    "int": {"type": "integer", "minimum": 0},
}
_ACCESS = {"public": "everybody", "signed-in": "signed-in people", "administrator": "administrators"}
_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
_CACHE = "openapi_document"

_MEANINGS = {
    200: "Done.",
    201: "Made.",
    202: "Accepted; the work goes on.",
    204: "Done; there is nothing to say.",
    400: "The request could not be read.",
    401: "Nobody is signed in, or the token is no longer valid.",
    403: "You may not do this.",
    404: "It does not exist, or is somebody else's.",
    405: "This cannot be done here.",
    409: "It exists already, or is in a state that does not allow this.",
    413: "The body is larger than 1 MiB.",
    415: "The body has another content type than this takes.",
    422: "A field breaks a rule; `errors` names it.",
    429: "Too often. `Retry-After` says when to come again.",
    503: "Not now. `Retry-After` says when to come again; nothing was changed.",
}


class Problem(BaseModel):
    """Every error: a sentence for people, and sentences by field where fields are at fault."""

    detail: str
    errors: dict[str, list[str]] = Field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Description:
    """What an endpoint says about itself: `@describes(...)` leaves it on the view, and `functools.wraps` carries it
    outward.

    `answers` names the schema of each status; None stands for an answer without a shape of its own (an error's is
    always Problem). What follows from the rest need not be named: 401 and 403 from who may call, 404 from arguments
    in the path, 400, 413, 415 and 422 from a body, 422 from a query, 429 from a limit, and 503 anywhere.
    `answer_type` is the content type of a success, or those it can have; `takes_ticket` says whether the waiting room's
    header must come.
    """

    summary: str
    _: KW_ONLY
    body: Schema | None = None
    form: Schema | None = None
    query: Schema | None = None
    answers: Mapping[int, Schema | None] = field(default_factory=lambda: {200: None})
    answer_type: str | tuple[str, ...] = _JSON
    takes_idempotency_key: bool = False
    takes_ticket: Ticket = None

    def __call__(self, view: View) -> View:
        """Leave the description on the view."""
        view.described = self  # type: ignore[attr-defined]
        return view


describes = Description


@dataclass(frozen=True, slots=True)
class Operation:
    """One method at one address."""

    method: str
    path: str
    arguments: tuple[tuple[str, str], ...]
    endpoint: str
    access: str
    is_limited: bool
    description: Description

    @property
    def summary(self) -> str:
        """What it does, in a sentence."""
        return self.description.summary


@endpoints.get("/api/openapi.json")
@public
@describes("This description, as OpenAPI 3.1.")
def show() -> Response:
    """Answer with the description; built once, since routes do not change while the application runs."""
    if _CACHE not in current_app.extensions:
        current_app.extensions[_CACHE] = current_app.json.dumps(document(current_app))
    return Response(current_app.extensions[_CACHE], mimetype=_JSON)


def list_operations(app: Flask) -> list[Operation]:
    """Return what can be asked for under `/api/`, ordered by path and method."""
    return sorted(_operations(app), key=lambda operation: (operation.path, _METHODS.index(operation.method)))


def document(app: Flask) -> dict[str, Any]:
    """Return the whole description as OpenAPI 3.1 (https://spec.openapis.org/oas/v3.1.0)."""
    settings: Settings = app.config["SETTINGS"]
    operations = list_operations(app)
    schemas, names = _schemas(operations)
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation, schemas, names)
    lifted = {names[query, "validation"] for query in _queries(operations)}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Cape Control",
            "version": "1",
            "description": "Accounts, conversations and the audit log as JSON. `/help/api` tells the same to people.",
        },
        "servers": [{"url": settings.public_url or "/"}],
        "paths": paths,
        "components": {
            "schemas": {name: schema for name, schema in schemas.items() if name not in lifted},
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "The token from `POST /api/auth/v2/login`, valid for 12 hours.",
                }
            },
        },
    }


def _operations(app: Flask) -> Iterator[Operation]:
    for rule in app.url_map.iter_rules():
        view: Any = app.view_functions[rule.endpoint]
        description = getattr(view, "described", None)
        if not rule.rule.startswith("/api/") or description is None:
            continue
        arguments = tuple((found["name"], found["kind"] or "string") for found in _ARGUMENT.finditer(rule.rule))
        for method in sorted((rule.methods or set()) & set(_METHODS)):
            yield Operation(
                method=method,
                path=_ARGUMENT.sub(r"{\g<name>}", rule.rule),
                arguments=arguments,
                endpoint=rule.endpoint,
                access=_ACCESS[view.access],
                is_limited=hasattr(view, "limit"),
                description=description,
            )


def _schemas(operations: list[Operation]) -> tuple[dict[str, Any], dict[tuple[Schema, str], str]]:
    """Return every schema by its name, and the names by schema and direction."""
    wanted: list[tuple[Schema, JsonSchemaMode]] = [(Problem, "serialization")]
    for operation in operations:
        described = operation.description
        wanted += [(shape, "validation") for shape in (described.body, described.form, described.query) if shape]
        wanted += [(shape, "serialization") for shape in described.answers.values() if shape]
    unique = list(dict.fromkeys(wanted))
    references, definitions = models_json_schema(unique, ref_template="#/components/schemas/{model}")
    names = {key: reference["$ref"].rpartition("/")[2] for key, reference in references.items()}
    return definitions.get("$defs", {}), names  # type: ignore[return-value]


def _queries(operations: list[Operation]) -> set[Schema]:
    bodies = {shape for each in operations for shape in (each.description.body, each.description.form) if shape}
    return {each.description.query for each in operations if each.description.query} - bodies


def _operation(operation: Operation, schemas: dict[str, Any], names: dict[tuple[Schema, str], str]) -> dict[str, Any]:
    described = operation.description
    feature, _, action = operation.endpoint.partition(".")
    about: dict[str, Any] = {
        "operationId": re.sub(
            r"\W+", "_", f"{operation.method.lower()}_{operation.path.removeprefix('/api/')}_{action}"
        ),
        "summary": described.summary,
        "tags": [feature.removesuffix("_api")],
        "parameters": [*_path_parameters(operation), *_query_parameters(described.query, schemas, names)],
        "responses": {str(status): _answer(status, described, names) for status in sorted(_statuses(operation))},
    }
    if described.takes_idempotency_key:
        about["parameters"].append(_IDEMPOTENCY_KEY)
    if described.takes_ticket:
        about["parameters"].append({**_TICKET, "required": described.takes_ticket == "required"})
    for shape, content_type in ((described.body, _JSON), (described.form, _FORM)):
        if shape is not None:
            schema = {"$ref": f"#/components/schemas/{names[shape, 'validation']}"}
            about["requestBody"] = {"required": True, "content": {content_type: {"schema": schema}}}
    if operation.access != _ACCESS["public"]:
        about["security"] = [{"bearer": []}]
    return about


_IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "A new random value for each act; the same act sent again under it happens once.",
    # A space at either end is no part of a header's value (RFC 9110, 5.5).
    "schema": {"type": "string", "minLength": 1, "maxLength": LONGEST_KEY, "pattern": "^[!-~]([ -~]*[!-~])?$"},
}
_TICKET = {
    "name": "X-Registration-Ticket",
    "in": "header",
    "description": "The ticket that a 503 of a registration gave out.",
    "schema": {"type": "string", "minLength": 1, "maxLength": LONGEST_TICKET, "pattern": "^[!-~]+$"},
}


def _path_parameters(operation: Operation) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, "schema": _KINDS[kind]} for name, kind in operation.arguments
    ]


def _query_parameters(
    query: Schema | None, schemas: dict[str, Any], names: dict[tuple[Schema, str], str]
) -> list[dict[str, Any]]:
    if query is None:
        return []
    shape = schemas[names[query, "validation"]]
    return [
        {
            "name": name,
            "in": "query",
            "required": name in shape.get("required", ()),
            "schema": _without_null(schema),
            **({"description": schema["description"]} if "description" in schema else {}),
        }
        for name, schema in shape.get("properties", {}).items()
    ]


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a parameter's schema: in a query there is no null, only absence."""
    kept = {key: value for key, value in schema.items() if key not in ("description", "title", "default")}
    choices = [choice for choice in kept.pop("anyOf", []) if choice != {"type": "null"}]
    if len(choices) == 1:
        return {**kept, **choices[0]}
    return {**kept, "anyOf": choices} if choices else kept


def _statuses(operation: Operation) -> set[int]:
    described = operation.description
    statuses = {*described.answers, 503}
    if operation.access != _ACCESS["public"]:
        statuses |= {401, 403}
    if operation.arguments:
        statuses.add(404)
    if described.body or described.form:
        statuses |= {400, 413, 415, 422}
    if described.query or described.takes_idempotency_key or described.takes_ticket:
        statuses.add(422)
    if operation.is_limited:
        statuses.add(429)
    return statuses


def _answer(status: int, described: Description, names: dict[tuple[Schema, str], str]) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": _MEANINGS[status]}
    shape = described.answers.get(status) or (Problem if status >= 400 else None)
    if shape is not None:
        schema: dict[str, Any] = {"$ref": f"#/components/schemas/{names[shape, 'serialization']}"}
        answer["content"] = {_JSON if status >= 400 else str(described.answer_type): {"schema": schema}}
    elif status != 204:
        kinds = (described.answer_type,) if isinstance(described.answer_type, str) else described.answer_type
        answer["content"] = {kind: {"schema": {"type": "object"} if kind == _JSON else {}} for kind in kinds}
    if status in (429, 503):
        answer["headers"] = {
            "Retry-After": {
                "required": True,
                "description": "Whole seconds.",
                "schema": {"type": "integer", "minimum": 1},
            }
        }
    return answer
