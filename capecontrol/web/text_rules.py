"""What text may contain; plain functions for forms and schemas alike, raising ValueError with a sentence."""

import unicodedata

LONGEST_KEY = 200
CHANGED_FORM = "This form was changed on its way to us. Please send it again."

_ALLOWED_CONTROLS = {"\n", "\t"}

# Neither space nor format characters (zero-width ones, marks of direction) show anything to a reader, nor do some that
# Unicode counts among letters, signs and accents: fillers, the empty Braille pattern, selectors of a variant.
_INVISIBLE = ("Z", "C")
_EMPTY = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0").union(map(chr, range(0xFE00, 0xFE10)))

# UAX 9, 2.1 to 2.4: embeddings, overrides and isolates turn the direction of what is written beside a name, too.
_TURNING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def one_line(value: str, *, label: str, limit: int) -> str:
    """Return the text without surrounding space. Refuses control characters, line breaks and more than `limit`
    characters."""
    value = value.strip()
    if any(_is_forbidden(character) or character == "\n" for character in value):
        raise ValueError(f"{label} must be one line without control characters.")
    _check_length(value, label, limit)
    return value


def name_line(value: str, *, label: str, limit: int) -> str:
    """Return a name, or nothing, as `one_line` does. Refuses as well what shows nothing, and characters that turn the
    direction of the text beside it."""
    value = one_line(value, label=label, limit=limit)
    if not _TURNING.isdisjoint(value):
        raise ValueError(f"{label} must not contain characters that turn the direction of text.")
    if value and not is_visible(value):
        raise ValueError(f"{label} must have something visible in it.")
    return value


def is_visible(text: str) -> bool:
    """Say whether the text shows anything at all."""
    return any(unicodedata.category(character)[0] not in _INVISIBLE for character in text if character not in _EMPTY)


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
