"""The operations page for administrators: how the product is, what needs somebody, and the outbox of a laptop."""

from uuid import UUID

from flask import Blueprint, Response, abort, flash, redirect, render_template, url_for
from werkzeug.wrappers import Response as Redirect

from capecontrol.audit import alerts
from capecontrol.auth.identity import admin_required, signed_in
from capecontrol.config import current_settings, on_a_dyno
from capecontrol.mail import outgoing
from capecontrol.operations import figures
from capecontrol.operations.health import current_readiness

pages = Blueprint("operations_pages", __name__, url_prefix="/admin/operations")

_NAMES = {
    "mapping": "Models",
    "audit": "Audit log",
    "queue": "Job queue",
}


@pages.get("")
@admin_required
def show() -> str:
    """Show the parts, the alerts and the figures, as they are now."""
    readiness = current_readiness()
    sections = figures.read_all()
    open_alerts = figures.read_alerts()
    needs = sum(part.state != "ok" for part in readiness.parts)
    needs += sum(figure.needs_you for section in sections for figure in section.figures)
    needs += sum(alert.needs_somebody for alert in open_alerts or ())
    return render_template(
        "operations/show.html",
        readiness=readiness,
        part_names=_NAMES,
        alerts=open_alerts,
        sections=sections,
        needs=needs,
        has_outbox=_has_outbox(),
    )


@pages.post("/alerts/<uuid:alert_id>/acknowledge")
@admin_required
def acknowledge(alert_id: UUID) -> Redirect:
    """Say that somebody has seen an alert."""
    alerts.acknowledge(str(alert_id), actor=signed_in())
    flash("Acknowledged. It counts on while it lasts, and nobody is mailed again.", "success")
    return redirect(url_for("operations_pages.show"), code=303)


@pages.get("/outbox")
@admin_required
def outbox() -> str:
    """Show the mails that stayed here because no mail server is set."""
    _need_outbox()
    return render_template("operations/outbox.html", mails=outgoing.list_kept())


@pages.get("/outbox/<uuid:mail_id>")
@admin_required
def show_kept(mail_id: UUID) -> str:
    """Show a mail of the outbox as text, its links to follow."""
    _need_outbox()
    return render_template("operations/show_kept.html", mail=outgoing.get_kept(str(mail_id)))


@pages.get("/outbox/<uuid:mail_id>/html")
@admin_required
def show_kept_html(mail_id: UUID) -> Response:
    """Show a mail of the outbox as a mail reader would; the policy of every page of ours holds for it too."""
    _need_outbox()
    return Response(outgoing.get_kept(str(mail_id)).html_body, mimetype="text/html")


def _need_outbox() -> None:
    if not _has_outbox():
        abort(404)


def _has_outbox() -> bool:
    """Say whether mails are read here: where no server is set, and never on a dyno, where they are other people's."""
    return current_settings().mail_server is None and not on_a_dyno()
