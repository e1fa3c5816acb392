"""The fields of the account pages and their shape checks."""

from collections.abc import Mapping, Sequence
from typing import Any

from flask_wtf import FlaskForm
from wtforms import BooleanField, Field, HiddenField, PasswordField, RadioField, StringField
from wtforms.fields import SelectChoice
from wtforms.validators import InputRequired, ValidationError

from capecontrol.auth import email_addresses
from capecontrol.auth.passwords import SHORTEST, problems
from capecontrol.auth.schemas import LONGEST_COMPANY, LONGEST_NAME
from capecontrol.web.text_rules import CHANGED_FORM, name_line, printable_key


def _strip(value: str | None) -> str:
    return (value or "").strip()


class RegisterForm(FlaskForm):
    """Opening an account. `fax_number` is the trap; `idempotency_key` makes a double click one registration.

    `data-missing` is what a field says that was left out: to the page's script, and here. `data-malformed` is what the
    script says of what is plainly no address.
    """

    full_name = StringField("Your name", filters=[_strip], render_kw={"data-missing": "Tell us your name."})
    email = StringField(
        "E-mail address",
        filters=[_strip],
        render_kw={
            "data-missing": "Give an e-mail address.",
            "data-malformed": "This does not look like an e-mail address.",
        },
    )
    password = PasswordField("Password", render_kw={"data-missing": problems("")[0], "minlength": str(SHORTEST)})
    user_role = RadioField(
        "What brings you here",
        choices=[SelectChoice("client", "I want things done"), SelectChoice("developer", "I build things")],
        default="client",
        validate_choice=False,
    )
    company_name = StringField("Company", filters=[_strip])
    terms = BooleanField(
        "I accept the terms: be civil, and keep your password to yourself.",
        false_values=(False, "false", "", "no"),
        render_kw={"data-missing": "Please accept the terms to open an account."},
    )
    idempotency_key = HiddenField()
    rendered_at = HiddenField()
    fax_number = StringField("Leave this empty")

    def validate_full_name(self, field: Field) -> None:
        """Require a name of one line that can be seen."""
        if not field.data:
            raise ValidationError(_missing(field))
        _check_name(field, "Your name", LONGEST_NAME)

    def validate_email(self, field: Field) -> None:
        """Require an address that mail could be sent to."""
        if not field.data:
            raise ValidationError(_missing(field))
        try:
            email_addresses.parse(field.data)
        except ValueError as error:
            raise ValidationError(str(error)) from None

    def validate_password(self, field: Field) -> None:
        """Tell what the service would refuse, beside the mistakes of the other fields."""
        email, name = self.email.data or "", self.full_name.data or ""
        if wrong := problems(field.data or "", email=email, name=name):
            raise ValidationError(wrong[0])

    def validate_user_role(self, field: Field) -> None:
        """Allow the two roles a person may choose."""
        if field.data not in ("client", "developer"):
            raise ValidationError("Say what brings you here.")

    def validate_company_name(self, field: Field) -> None:
        """Allow one line."""
        _check_name(field, "The company's name", LONGEST_COMPANY)

    def validate_idempotency_key(self, field: Field) -> None:
        """Refuse what no page of ours has put there, and put nothing in its place."""
        try:
            printable_key(field.data or "none", label="The hidden key")
        except ValueError:
            field.data = None
            raise ValidationError(CHANGED_FORM) from None

    def validate_terms(self, field: Field) -> None:
        """Require the tick."""
        if not field.data:
            raise ValidationError(_missing(field))


class SignInForm(FlaskForm):
    """Signing in."""

    email = StringField("E-mail address", filters=[_strip], validators=[InputRequired("Enter your e-mail address.")])
    password = PasswordField("Password", validators=[InputRequired("Enter your password.")])
    remember = BooleanField("Stay signed in on this device for 30 days")
    next = HiddenField()


class VerifyForm(FlaskForm):
    """The one button that confirms an address; a mail's link alone changes nothing."""

    token = HiddenField()


class WaitingForm(FlaskForm):
    """The password once more, at one's turn in the waiting room; everything else was kept. `ticket` and `key` say with
    which form the page waits, since another tab may have sent another.

    `data-missing` is what the page's script says of a password that is too short to be the one that was chosen.
    """

    ticket = HiddenField()
    key = HiddenField()
    password = PasswordField(
        "Password",
        validators=[InputRequired("Type your password once more.")],
        render_kw={"data-missing": problems("")[0], "minlength": str(SHORTEST)},
    )


def add_errors(form: FlaskForm, errors: Mapping[str, Sequence[str]]) -> None:
    """Put a service's sentences on the form's fields, those of unknown fields on the form itself."""
    for name, texts in errors.items():
        field: Any = form._fields.get(name)
        if field is None or isinstance(field, HiddenField):
            form.form_errors.extend(texts)
        else:
            field.errors = [*field.errors, *texts]


def _missing(field: Field) -> str:
    return str(field.render_kw["data-missing"])


def _check_name(field: Field, label: str, limit: int) -> None:
    try:
        field.data = name_line(field.data, label=label, limit=limit)
    except ValueError as error:
        raise ValidationError(str(error)) from None
