"""The JSON of the health endpoints."""

from datetime import datetime

from pydantic import BaseModel

from capecontrol.operations.readiness import State
from capecontrol.web.openapi import Problem


class HealthAnswer(BaseModel):
    """How the product is, and each part of it; no internals."""

    status: State
    parts: dict[str, State]


class HealthProblem(Problem):
    """The same when the product cannot work."""

    status: State
    parts: dict[str, State]


class PartAnswer(BaseModel):
    """One part, in words for whoever runs the product."""

    state: State
    detail: str


class ReadinessAnswer(BaseModel):
    """The details of `/readyz`, for holders of METRICS_TOKEN."""

    status: State
    checked_at: datetime
    parts: dict[str, PartAnswer]
