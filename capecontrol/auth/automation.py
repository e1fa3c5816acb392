"""Telling machines from people on the registration page, without a puzzle and without a lie.

A filled trap or an impossibly fast form is answered 422 in words, never with a faked success: password managers fill
traps, and screen readers read them.
"""

from itsdangerous import BadSignature, TimestampSigner

from capecontrol import clock


def stamp(secret_key: str) -> str:
    """Return a signed mark of when a form was drawn, for its hidden field."""
    return _signer(secret_key).sign("form").decode()


def suspicion(*, trap: str, mark: str, secret_key: str) -> str | None:
    """Return in words why the form looks sent by a machine, or None."""
    if trap:
        return "The field “Leave this empty” was filled in. Please empty it and send the form again."
    try:
        _, drawn_at = _signer(secret_key).unsign(mark, return_timestamp=True)
    except BadSignature:
        return "This form was changed on its way. Please check it and send it again."
    if int(drawn_at.timestamp()) == int(clock.epoch()):  # the mark tells whole seconds
        return "That was faster than anybody can type. Please send the form once more."
    return None


def _signer(secret_key: str) -> TimestampSigner:
    return TimestampSigner(secret_key, salt="registration-form")
