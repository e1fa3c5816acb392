"""The fields of the conversation pages; the rules of what may be said are the service's."""

from flask_wtf import FlaskForm
from wtforms import HiddenField, StringField, TextAreaField


def line_feeds(text: str | None) -> str:
    """Return the text as it was typed: browsers send every line break of a form as CR LF (HTML, form submission)."""
    return (text or "").replace("\r\n", "\n").replace("\r", "\n")


class StartForm(FlaskForm):
    """A first message, or nothing; `idempotency_key` makes a double click one conversation."""

    content = TextAreaField("What would you like to know?", filters=[line_feeds])
    idempotency_key = HiddenField()


class PostForm(FlaskForm):
    """A message; `idempotency_key` makes a double click one message."""

    content = TextAreaField("Your message", filters=[line_feeds])
    idempotency_key = HiddenField()


class ReasonForm(FlaskForm):
    """Why staff want to read somebody's conversation."""

    reason = TextAreaField("Why do you need to read it?", filters=[line_feeds])


class RenameForm(FlaskForm):
    """Another title."""

    title = StringField("Title", filters=[lambda text: (text or "").strip()])
