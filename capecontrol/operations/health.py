"""The addresses that machines ask how the product is."""

from typing import Any

from flask import Blueprint, Response, current_app, jsonify

from capecontrol.auth.identity import public
from capecontrol.operations.metrics import holds_token
from capecontrol.operations.readiness import Readiness, Watch
from capecontrol.operations.schemas import HealthAnswer, HealthProblem, PartAnswer, ReadinessAnswer
from capecontrol.web.openapi import describes

endpoints = Blueprint("operations", __name__)

_WATCH = "readiness"
_COME_AGAIN_SECONDS = 5


@endpoints.record
def _begin_watch(state: Any) -> None:
    state.app.extensions[_WATCH] = Watch()


@endpoints.get("/healthz")
@public
def healthz() -> Response:
    """Say that this process is alive; asks nothing and nobody."""
    return Response("ok", mimetype="text/plain")


@endpoints.get("/readyz")
@public
def readyz() -> Response:
    """Say whether requests can be answered: 503 only when nothing works, `degraded` with 200 otherwise."""
    readiness = current_readiness()
    if not holds_token():
        return _answer({"status": readiness.status}, readiness)
    details = ReadinessAnswer(
        status=readiness.status,
        checked_at=readiness.checked_at,
        parts={part.name: PartAnswer(state=part.state, detail=part.detail) for part in readiness.parts},
    )
    return _answer(details.model_dump(mode="json"), readiness)


@endpoints.get("/api/health")
@endpoints.get("/api/health/")
@public
@describes("How the product is, part by part.", answers={200: HealthAnswer, 503: HealthProblem})
def health() -> Response:
    """H1."""
    readiness = current_readiness()
    parts = {part.name: part.state for part in readiness.parts}
    if readiness.status != "down":
        return _answer(HealthAnswer(status=readiness.status, parts=parts).model_dump(), readiness)
    broken = ", ".join(name for name, state in parts.items() if state == "down")
    problem = HealthProblem(detail=f"Not ready: {broken}.", status=readiness.status, parts=parts)
    return _answer(problem.model_dump(), readiness)


def current_readiness() -> Readiness:
    """Return how the parts are, as this process last looked."""
    watch: Watch = current_app.extensions[_WATCH]
    return watch.current()


def _answer(body: dict[str, Any], readiness: Readiness) -> Response:
    response = jsonify(body)
    if readiness.status == "down":
        response.status_code = 503
        response.headers["Retry-After"] = str(_COME_AGAIN_SECONDS)
    return response
