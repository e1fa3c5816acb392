"""Where the current act comes from: address, browser and request, or nothing outside a request."""

from dataclasses import dataclass

from flask import g, has_request_context, request


@dataclass(frozen=True, slots=True)
class Origin:
    """What the request says about itself; every field is None for a command or a job."""

    ip_address: str | None = None
    user_agent: str | None = None
    endpoint: str | None = None
    http_method: str | None = None
    request_id: str | None = None


def current_origin() -> Origin:
    """Return the origin of the running request. The address is ProxyFix's, so a forged header is worth nothing."""
    if not has_request_context():
        return Origin()
    return Origin(
        ip_address=request.remote_addr,
        user_agent=request.user_agent.string or None,
        endpoint=request.endpoint or request.path,
        http_method=request.method,
        request_id=g.get("request_id"),
    )
