"""The fields beside the audit log's search, which write the query for people who would rather choose than type."""

import ipaddress
from collections.abc import Collection
from datetime import date
from typing import Any

from wtforms import DateField, Form, HiddenField, RadioField, SelectField, StringField
from wtforms.validators import Optional, ValidationError

from capecontrol.audit.query_language import LONGEST, Query
from capecontrol.web.text_rules import one_line

LONGEST_PERSON = 320
OUTCOMES = {"": "Any outcome", "success": "Done", "refused": "Refused"}
FORMATS = {"csv": "CSV", "ndjson": "NDJSON", "json": "JSON"}


def _strip(value: str | None) -> str:
    return (value or "").strip()


class _DayField(DateField):
    """A day, whose mistake is told in words."""

    def process_formdata(self, valuelist: list[str]) -> None:
        """Read a day such as 2026-11-24, and only in that form."""
        text = valuelist[0].strip() if valuelist else ""
        if not text:
            return
        try:
            if len(text) != len("2026-11-24"):
                raise ValueError(text)
            self.data = date.fromisoformat(text)
        except ValueError:
            raise ValueError("Give a day such as 2026-11-24.") from None


class FilterForm(Form):
    """Which events to show. `event_types` are the names there are; nothing here changes anything, so no token.

    `words` carries on what the query says beside these fields.
    """

    event = StringField("Event", filters=[_strip])
    person = StringField("Person", filters=[_strip])
    outcome = SelectField("Outcome", choices=OUTCOMES, default="", validate_choice=False)
    ip = StringField("Internet address", filters=[_strip])
    after = _DayField("From", validators=[Optional()])
    before = _DayField("Until, that day included", validators=[Optional()])
    words = HiddenField(filters=[_strip])

    def __init__(self, formdata: Any = None, *, event_types: Collection[str], **values: Any) -> None:
        super().__init__(formdata, **values)
        self._event_types = event_types

    def validate_event(self, field: StringField) -> None:
        """Take only names there are: a mistyped one would look like an empty log."""
        if field.data and field.data not in self._event_types:
            raise ValidationError("There is no event of that name. Choose one of the list.")

    def validate_person(self, field: StringField) -> None:
        """Take one line of text."""
        _check_line(field, "Person", LONGEST_PERSON)

    def validate_outcome(self, field: SelectField) -> None:
        """Take one of the three."""
        if (field.data or "") not in OUTCOMES:
            raise ValidationError("Choose done, refused or any outcome.")

    def validate_ip(self, field: StringField) -> None:
        """Take an address of the internet."""
        try:
            if field.data:
                ipaddress.ip_address(field.data)
        except ValueError:
            raise ValidationError("An internet address looks like 192.0.2.7 or 2001:db8::7.") from None

    def validate_before(self, field: _DayField) -> None:
        """Refuse a span that ends before it begins."""
        if field.data and self.after.data and field.data < self.after.data:
            raise ValidationError("This day is before the first one.")

    def validate_words(self, field: HiddenField) -> None:
        """Take one line of text."""
        _check_line(field, "The search", LONGEST)

    def as_query(self, *, beside: str = "") -> dict[str, str]:
        """Return what the fields say, by the names of the query language; `beside` is a query of the same address."""
        return {
            "actor": self.person.data or "",
            "event": self.event.data or "",
            "outcome": "done" if self.outcome.data == "success" else self.outcome.data or "",
            "ip": self.ip.data or "",
            "after": self.after.data.isoformat() if self.after.data else "",
            "before": self.before.data.isoformat() if self.before.data else "",
            "words": f"{self.words.data or ''} {beside}".strip(),
        }


class ExportForm(FilterForm):
    """Which events to export, by the same filters, and as what."""

    ip = None
    words = None
    format = RadioField("Format", choices=FORMATS, default="csv", validate_choice=False)

    def validate_format(self, field: RadioField) -> None:
        """Take one of the three."""
        if field.data not in FORMATS:
            raise ValidationError("Choose CSV, NDJSON or JSON.")


def fields_of(query: Query, *, event_types: Collection[str]) -> FilterForm:
    """Return the fields that say what a query says; what they have no place for goes on in `words`."""
    filters = query.filters
    shown = {"actor", "outcome", "ip", "after", "before"}
    if isinstance(filters.event, tuple) and len(filters.event) == 1:
        shown.add("event")
    return FilterForm(
        event_types=event_types,
        event=query.value_of("event") if "event" in shown else "",
        person=query.value_of("actor"),
        outcome=filters.outcome or "",
        ip=filters.ip or "",
        after=filters.after.date() if filters.after else None,
        before=query.last_day,
        words=" ".join(term.text for term in query.terms if term.name not in shown),
    )


def _check_line(field: Any, label: str, limit: int) -> None:
    try:
        one_line(field.data, label=label, limit=limit)
    except ValueError as error:
        raise ValidationError(str(error)) from None
