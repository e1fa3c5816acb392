"""What text may contain; plain functions for forms and schemas alike, raising ValueError with a sentence."""

import unicodedata

LONGEST_KEY = 200
CHANGED_FORM = "This form was changed on its way to us. Please send it again."

_ALLOWED_CONTROLS = {"\n", "\t"}


def one_line(value: str, *, label: str, limit: int) -> str:
    """Return the text without surrounding space. Refuses control characters, line breaks and more than `limit`
    characters."""
    value = value.strip()
    if any(_is_forbidden(character) or character == "\n" for character in value):
        raise ValueError(f"{label} must be one line without control characters.")
    _check_length(value, label, limit)
    return value


def many_lines(value: str, *, label: str, limit: int) -> str:
    """Return the text exactly as written. Refuses control characters but tab and line breaks, and more than `limit`
    characters."""
    without_returns = value.replace("\r\n", "\n")
    if any(_is_forbidden(character) for character in without_returns):
        raise ValueError(f"{label} must not contain control characters.")
    _check_length(value, label, limit)
    return value


def printable_key(value: str, *, label: str) -> str:
    """Return what a caller made up to tell one act from another. Refuses what is empty, long or not printable."""
    if not 1 <= len(value) <= LONGEST_KEY or not value.isascii() or not value.isprintable():
        raise ValueError(f"{label} must be 1 to {LONGEST_KEY} printable ASCII characters.")
    return value


def spoken(name: str) -> str:
    """Return a field's name as a person reads it: `fullName` and `full_name` are "Full name"."""
    spaced = "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in name)
    return spaced.replace("_", " ").strip().capitalize()


def _check_length(value: str, label: str, limit: int) -> None:
    if len(value) > limit:
        raise ValueError(f"{label} is too long: at most {limit:,} characters, and this has {len(value):,}.")


def _is_forbidden(character: str) -> bool:
    """Controls (Cc) and lone surrogates (Cs): neither is text, and PostgreSQL cannot hold NUL or surrogates."""
    return character not in _ALLOWED_CONTROLS and unicodedata.category(character) in ("Cc", "Cs")
