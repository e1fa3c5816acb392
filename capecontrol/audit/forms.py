"""The filters above the audit log, as they come in the page's address."""

from collections.abc import Collection
from datetime import date
from typing import Any

from wtforms import DateField, Form, RadioField, SelectField, StringField
from wtforms.validators import Optional, ValidationError

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
    """Which events to show. `event_types` are the names there are; nothing here changes anything, so no token."""

    event = StringField("Event", filters=[_strip])
    person = StringField("Person", filters=[_strip], description="An e-mail address, or an account's id.")
    outcome = SelectField("Outcome", choices=OUTCOMES, default="", validate_choice=False)
    after = _DayField("From", validators=[Optional()])
    before = _DayField("Until, that day included", validators=[Optional()])

    def __init__(self, formdata: Any, *, event_types: Collection[str]) -> None:
        super().__init__(formdata)
        self._event_types = event_types

    def validate_event(self, field: StringField) -> None:
        """Take only names there are: a mistyped one would look like an empty log."""
        if field.data and field.data not in self._event_types:
            raise ValidationError("There is no event of that name. Choose one of the list.")

    def validate_person(self, field: StringField) -> None:
        """Take one line of text."""
        try:
            one_line(field.data, label="Person", limit=LONGEST_PERSON)
        except ValueError as error:
            raise ValidationError(str(error)) from None

    def validate_outcome(self, field: SelectField) -> None:
        """Take one of the three."""
        if (field.data or "") not in OUTCOMES:
            raise ValidationError("Choose done, refused or any outcome.")

    def validate_before(self, field: _DayField) -> None:
        """Refuse a span that ends before it begins."""
        if field.data and self.after.data and field.data < self.after.data:
            raise ValidationError("This day is before the first one.")


class ExportForm(FilterForm):
    """Which events to export, by the same filters, and as what."""

    format = RadioField("Format", choices=FORMATS, default="csv", validate_choice=False)

    def validate_format(self, field: RadioField) -> None:
        """Take one of the three."""
        if field.data not in FORMATS:
            raise ValidationError("Choose CSV, NDJSON or JSON.")
