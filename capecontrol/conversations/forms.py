"""The fields of the conversation pages; the rules of what may be said are the service's."""

from flask_wtf import FlaskForm
from wtforms import HiddenField, StringField, TextAreaField

from capecontrol.errors import Invalid
from capecontrol.web.text_rules import CHANGED_FORM, printable_key


def line_feeds(text: str | None) -> str:
    """Return the text as it was typed: browsers send every line break of a form as CR LF (HTML, form submission)."""
    return (text or "").replace("\r\n", "\n").replace("\r", "\n")


class _KeyedForm(FlaskForm):
    """A form whose hidden key makes a double click one act."""

    idempotency_key = HiddenField()

    def take_key(self) -> str | None:
        """Return the hidden key, or None. Raises Invalid for what no page of ours has put there, and forgets it."""
        try:
            return printable_key(self.idempotency_key.data, label="The key") if self.idempotency_key.data else None
        except ValueError:
            self.idempotency_key.data = None
            raise Invalid({"form": [CHANGED_FORM]}) from None


class StartForm(_KeyedForm):
    """A first message, or nothing."""

    content = TextAreaField("What would you like to know?", filters=[line_feeds])


class PostForm(_KeyedForm):
    """A message."""

    content = TextAreaField("Your message", filters=[line_feeds])


class RenameForm(FlaskForm):
    """Another title."""

    title = StringField("Title", filters=[lambda text: (text or "").strip()])
