"""The conversation pages; each works without JavaScript."""

from typing import Any

from flask import Blueprint, flash, redirect, render_template, request, url_for
from flask_wtf import FlaskForm
from werkzeug.wrappers import Response

from capecontrol import ids
from capecontrol.audit.actor import Actor
from capecontrol.auth.identity import admin_required, login_required, signed_in
from capecontrol.conversations import changes, reading, service, staff_reading
from capecontrol.conversations.forms import PostForm, ReasonForm, RenameForm, StartForm
from capecontrol.conversations.schemas import MessageAnswer
from capecontrol.errors import Conflict, DomainError, Invalid, RateLimited
from capecontrol.web import rate_limits
from capecontrol.web.error_handlers import status_of
from capecontrol.web.form_requests import take_key

pages = Blueprint("conversations", __name__, url_prefix="/conversations")
staff_pages = Blueprint("staff_reading", __name__, url_prefix="/admin/conversations")

Page = str | tuple[str, int] | tuple[str, int, dict[str, str]]
_STARTERS = ("What can the Guide do?", "Can I get a deleted conversation back?", "Who can read my conversations?")
_SENT_BEFORE = "You already sent this form with another text. Press Send again to send this one too."


@pages.get("")
@login_required
def list_all() -> str:
    """Show one shelf of one's conversations."""
    return _list_page(StartForm(), actor=signed_in())


@pages.post("")
@login_required
def start() -> Response | Page:
    """Start a conversation with what is in the box, or with nothing yet."""
    actor = signed_in()
    form = StartForm()
    try:
        rate_limits.hold_to(rate_limits.START_CONVERSATION, who=actor.id)
        started = service.start(
            actor=actor, content=form.content.data or None, idempotency_key=take_key(form.idempotency_key)
        )
    except (Invalid, RateLimited) as refusal:
        _explain(form, refusal)
        return _list_page(form, actor=actor), status_of(refusal), _headers(refusal)
    return redirect(_address(started.conversation.id), code=303)


@pages.get("/<conversation_id>")
@login_required
def show(conversation_id: str) -> str:
    """Show a conversation, its newest messages or those before one of them."""
    return _conversation_page(conversation_id, actor=signed_in(), before=request.args.get("before"))


@pages.post("/<conversation_id>/messages")
@login_required
def post_message(conversation_id: str) -> Response | Page:
    """Post a message."""
    actor = signed_in()
    form = PostForm()
    try:
        rate_limits.hold_to(rate_limits.POST_MESSAGE, who=actor.id)
        service.post_message(
            conversation_id, form.content.data, actor=actor, idempotency_key=take_key(form.idempotency_key)
        )
    except (Invalid, Conflict, RateLimited) as refusal:
        _explain(form, refusal)
        page = _conversation_page(conversation_id, actor=actor, post_form=form)
        return page, status_of(refusal), _headers(refusal)
    return redirect(_address(conversation_id), code=303)


@pages.post("/<conversation_id>/rename")
@login_required
def rename(conversation_id: str) -> Response | Page:
    """Give a conversation another title."""
    actor = signed_in()
    form = RenameForm()
    try:
        changes.rename(conversation_id, form["title"].data, actor=actor)
    except (Invalid, Conflict) as refusal:
        _explain(form, refusal)
        return _conversation_page(conversation_id, actor=actor, rename_form=form), status_of(refusal)
    flash("Renamed.", "success")
    return redirect(_address(conversation_id), code=303)


@pages.post("/<conversation_id>/archive")
@login_required
def archive(conversation_id: str) -> Response:
    """Take a conversation off the everyday list."""
    changes.archive(conversation_id, actor=signed_in())
    flash("Archived. You find it on the Archived shelf.", "success")
    return redirect(url_for("conversations.list_all"), code=303)


@pages.post("/<conversation_id>/unarchive")
@login_required
def unarchive(conversation_id: str) -> Response:
    """Put a conversation back on the everyday list."""
    changes.unarchive(conversation_id, actor=signed_in())
    flash("Back among your conversations.", "success")
    return redirect(_address(conversation_id), code=303)


@pages.post("/<conversation_id>/delete")
@login_required
def delete(conversation_id: str) -> Response:
    """Delete a conversation, with an offer to undo it."""
    conversation = changes.delete(conversation_id, actor=signed_in())
    flash(conversation.id, "undo")
    return redirect(url_for("conversations.list_all"), code=303)


@pages.post("/<conversation_id>/restore")
@login_required
def restore(conversation_id: str) -> Response:
    """Bring a deleted conversation back."""
    changes.restore(conversation_id, actor=signed_in())
    flash("Restored, with everything in it.", "success")
    return redirect(_address(conversation_id), code=303)


@staff_pages.get("/<conversation_id>")
@admin_required
def ask_to_read(conversation_id: str) -> Response | Page:
    """Ask why an administrator needs to read somebody's conversation, and show nothing of it."""
    try:
        staff_reading.check(conversation_id, actor=signed_in())
    except staff_reading.OwnConversation:
        return redirect(_address(conversation_id), code=303)
    return _reason_page(ReasonForm(formdata=None), conversation_id)


@staff_pages.post("/<conversation_id>")
@admin_required
def read(conversation_id: str) -> Response | Page:
    """Show a conversation to an administrator who said why: once, and on record."""
    form = ReasonForm()
    try:
        shown = staff_reading.read(
            conversation_id, form.reason.data, actor=signed_in(), before=request.args.get("before") or None
        )
    except staff_reading.OwnConversation:
        return redirect(_address(conversation_id), code=303)
    except Invalid as refusal:
        _explain(form, refusal)
        return _reason_page(form, conversation_id), status_of(refusal)
    older = url_for("staff_reading.ask_to_read", conversation_id=conversation_id, before=shown.next)
    return render_template(
        "conversations/read.html",
        reading=shown,
        conversation=shown.conversation,
        messages=[MessageAnswer.of(message) for message in shown.messages],
        older=older if shown.next else None,
    )


def _reason_page(form: ReasonForm, conversation_id: str) -> str:
    before = request.args.get("before") or None
    action = url_for("staff_reading.read", conversation_id=conversation_id, before=before)
    return render_template("conversations/ask_to_read.html", form=form, action=action, is_further=before is not None)


def _list_page(form: StartForm, *, actor: Actor) -> str:
    shelf = request.args.get("shelf", "active")
    if shelf not in reading.SHELVES:
        shelf = "active"
    page = reading.list_conversations(actor=actor, status=shelf, cursor=request.args.get("cursor"))
    form.idempotency_key.data = form.idempotency_key.data or ids.new_id()
    return render_template(
        "conversations/list_all.html",
        conversations=page.conversations,
        shelf=shelf,
        older=url_for("conversations.list_all", shelf=shelf, cursor=page.next) if page.next else None,
        start_form=form,
        # Each with a key of its own: a double click starts one conversation, two different questions start two.
        starters=[(question, ids.new_id()) for question in _STARTERS],
    )


def _conversation_page(
    conversation_id: str,
    *,
    actor: Actor,
    before: str | None = None,
    post_form: PostForm | None = None,
    rename_form: RenameForm | None = None,
) -> str:
    page = reading.list_latest_messages(conversation_id, actor=actor, before=before or None)
    # A form that was not posted must not take up the fields of the one that was.
    post_form = post_form or PostForm(formdata=None)
    rename_form = rename_form or RenameForm(formdata=None)
    post_form.idempotency_key.data = post_form.idempotency_key.data or ids.new_id()
    unfinished = [index for index, message in enumerate(page.messages) if message.status in reading.UNFINISHED]
    settled = page.messages[: unfinished[0]] if unfinished else page.messages
    return render_template(
        "conversations/show.html",
        conversation=page.conversation,
        messages=[MessageAnswer.of(message) for message in page.messages],
        post_form=post_form,
        rename_form=rename_form,
        waiting=bool(unfinished),
        last_message_id=settled[-1].id if settled else None,
        older=url_for("conversations.show", conversation_id=conversation_id, before=page.next) if page.next else None,
    )


def _explain(form: FlaskForm, refusal: DomainError) -> None:
    """Put the refusal's sentences on the form; what was typed stays in it."""
    if isinstance(refusal, service.KeyUsedDifferently):
        # The person went back and wrote something else: the next press is a message of its own.
        form.form_errors.append(_SENT_BEFORE)
        form["idempotency_key"].data = None
        return
    texts = getattr(refusal, "errors", {}) or {None: [refusal.detail]}
    for name, sentences in texts.items():
        field: Any = form._fields.get(name)
        if field is None:
            form.form_errors.extend(sentences)
        else:
            field.errors = [*field.errors, *sentences]


def _headers(refusal: DomainError) -> dict[str, str]:
    retry_after = getattr(refusal, "retry_after", None)
    return {"Retry-After": str(retry_after)} if retry_after else {}


def _address(conversation_id: str) -> str:
    return url_for("conversations.show", conversation_id=conversation_id, _anchor="latest")
