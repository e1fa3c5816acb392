"""Cape Control: accounts in seconds, conversations that are never lost, a record that can be trusted."""

import sys
from collections.abc import Callable
from typing import Any

from flask import Flask, Response
from werkzeug.middleware.proxy_fix import ProxyFix

from capecontrol import config, database, each_second
from capecontrol.audit import api as audit_api
from capecontrol.audit import cli as audit_cli
from capecontrol.audit import delivery, recorder, retention, signing, spool
from capecontrol.audit import views as audit_views
from capecontrol.audit.keeper import Keeper
from capecontrol.auth import api as auth_api
from capecontrol.auth import availability, identity, passwords, turned_away, waiting_room, waiting_views
from capecontrol.auth import cli as auth_cli
from capecontrol.auth import views as auth_views
from capecontrol.conversations import api as conversations_api
from capecontrol.conversations import views as conversations_views
from capecontrol.extensions import csrf, db, migrate
from capecontrol.help import views as help_views
from capecontrol.mail import smtp
from capecontrol.operations import cli as operations_cli
from capecontrol.operations import health, metrics
from capecontrol.operations import views as operations_views
from capecontrol.web import (
    deadlines,
    error_handlers,
    form_requests,
    hosts,
    landing,
    openapi,
    rate_limits,
    registrations_line,
    request_log,
    security_headers,
    streams,
    template_filters,
)

_PAGES = (
    landing.pages,
    auth_views.pages,
    waiting_views.pages,
    conversations_views.pages,
    conversations_views.staff_pages,
    audit_views.pages,
    operations_views.pages,
    help_views.pages,
)
_ENDPOINTS = (
    auth_api.endpoints,
    conversations_api.endpoints,
    audit_api.endpoints,
    openapi.endpoints,
    health.endpoints,
    metrics.endpoints,
)
_LARGEST_BODY = 1024 * 1024


class _PlainFlask(Flask):
    """Flask without a question that it asks a dozen times a request: whether a view or a hook is a coroutine."""

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function as it is; none of ours is a coroutine."""
        return func

    def make_default_options_response(self) -> Response:
        """Answer OPTIONS with what is allowed, and no body: Flask's empty one would be called HTML under /api/."""
        response = super().make_default_options_response()
        response.status_code = 204
        return response


def create_app(settings: config.Settings | None = None) -> Flask:
    """Assemble the application. Touches no database, no network; raises SettingsError or a mapping error.

    Without settings it is only the one command that needs none: verifying an exported record.
    """
    try:
        settings = settings or config.load_settings()
    except config.SettingsError:
        if not audit_cli.needs_no_settings(sys.argv):
            raise
        return audit_cli.without_settings()
    app = _PlainFlask(
        __name__,
        template_folder=str(config.ROOT / "templates"),
        static_folder=str(config.ROOT / "static"),
        static_url_path="/static",
    )
    app.config.update(
        SETTINGS=settings,
        MAX_CONTENT_LENGTH=_LARGEST_BODY,
        MAX_FORM_MEMORY_SIZE=_LARGEST_BODY,
        WTF_CSRF_TIME_LIMIT=None,  # as long as the session: a form left open overnight still works
        WTF_CSRF_SSL_STRICT=False,  # the token decides; a missing Referer is privacy, not an attack
    )
    app.json.sort_keys = False  # type: ignore[attr-defined]
    # `//login` is another address than `/login`, and a redirect would be HTML under /api/.
    app.url_map.merge_slashes = False
    hops = settings.trusted_proxy_hops or 0
    if hops:
        # X-Forwarded-Host can be written by the caller, so it is never believed (ASVS 4.1.3).
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=hops, x_proto=hops, x_host=0, x_port=0, x_prefix=0)  # type: ignore[method-assign]

    request_log.configure_logging(settings)
    request_log.init_app(app)
    hosts.init_app(app, settings)
    security_headers.init_app(app, settings)
    error_handlers.init_app(app)
    deadlines.init_app(app)
    form_requests.init_app(app)
    streams.init_app(app, settings)
    template_filters.init_app(app)

    passwords.configure(
        slots=settings.password_hash_slots or 1,
        threads=settings.web_threads,
        memory_kib=settings.password_hash_memory_kib,
        passes=settings.password_hash_passes,
    )
    waiting_room.configure(
        secret_key=settings.secret_key.get_secret_value(),
        slots=settings.password_hash_slots or 1,
        processes=settings.web_concurrency,
        is_open=settings.registration_waiting_room,
        is_private=settings.is_private,
    )
    signing.configure(settings.audit_signing_key.get_secret_value() or settings.secret_key.get_secret_value())
    retention.configure(settings.audit_retention_days)
    database.init_app(app, settings)
    migrate.init_app(app, db, directory=str(config.ROOT / "migrations"))
    spool.configure(settings.audit_spool_dir, is_lost_at_restart=config.on_a_dyno())
    recorder.install(db.session)
    delivery.configure(settings)
    smtp.init_app(app, settings)
    csrf.init_app(app)
    identity.init_app(app, settings)
    rate_limits.init_app(app)
    each_second.init_app(
        app,
        (
            rate_limits.share_counts,
            availability.record_checks,
            turned_away.record_others,
            waiting_room.go_on,
            Keeper().keep_up,
        ),
    )

    for blueprint in _PAGES:
        app.register_blueprint(blueprint)
    for blueprint in _ENDPOINTS:
        csrf.exempt(blueprint)  # JSON only, and cross-site calls by cookie are refused in identity
        app.register_blueprint(blueprint)
    registrations_line.init_app(app)
    audit_cli.register(app)
    auth_cli.register(app)
    operations_cli.register(app)
    return app
