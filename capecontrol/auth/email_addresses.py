"""E-mail addresses: the form that mail is sent to, the one key that decides identity, and typing mistakes."""

import re
from dataclasses import dataclass
from functools import lru_cache

from email_validator import EmailNotValidError, validate_email

LONGEST = 254
"""RFC 5321's limit on a path, in characters."""

# What nearly everybody's address looks like: about its local part there is nothing to decide, so only the domain is
# looked at. In lower case, because the library gives some names such as Postmaster another form.
_PLAIN = re.compile(
    r"(?=[^@]{1,64}@)(?P<local>[a-z0-9_+-]+(?:\.[a-z0-9_+-]+)*)@(?!(?i:.*xn--))(?P<domain>[A-Za-z0-9.-]+)"
)

# Providers that many people have their mail with. A domain one slip away from one of these is asked about.
_COMMON = (
    "gmail.com",
    "googlemail.com",
    "hotmail.com",
    "hotmail.co.uk",
    "outlook.com",
    "yahoo.com",
    "yahoo.co.uk",
    "icloud.com",
    "protonmail.com",
    "comcast.net",
    "verizon.net",
    "telkomsa.net",
    "vodamail.co.za",
    "webmail.co.za",
)
# Real providers that lie one slip away from one of those.
_REAL_NEIGHBOURS = frozenset({"mail.com", "ymail.com", "email.com", "cloud.com", "gail.com"})
# Endings that are no top-level domain, and what their writer meant. Real ones such as .cm, .co and .om are not here.
_ENDINGS = {
    wrong: right
    for right, all_wrong in {
        "com": ("con", "cmo", "ocm", "comm", "coom", "cim", "vom", "xom", "cpm", "dom", "c0m"),
        "net": ("ner", "nte", "ent", "nett", "met"),
        "org": ("ogr", "rog", "orgg", "prg"),
        "co.za": ("co.xa", "co.zaa", "coza"),
    }.items()
    for wrong in all_wrong
}


@dataclass(frozen=True, slots=True)
class EmailAddress:
    """An address in its normal form, and its lower-cased key with the domain in ASCII."""

    address: str
    key: str


def parse(text: str) -> EmailAddress:
    """Return the address. Raises ValueError with a sentence for people.

    Plus tags, mixed case and Unicode domains are taken; no DNS is asked, since a request never waits for a network.
    """
    text = text.strip()
    if not text:
        raise ValueError("Enter your e-mail address.")
    if len(text) > LONGEST:
        raise ValueError(f"This address is too long: at most {LONGEST} characters.")
    if "\ufffd" in text:  # what stands for bytes that are no text: nobody's address, and not what was sent
        raise ValueError("A character of this address could not be read. Please type it again.")
    try:
        if plain := _PLAIN.fullmatch(text):
            local = plain["local"]
            domain, ascii_domain = _checked_domain(plain["domain"])
        else:
            local, domain, ascii_domain = _checked(text)
    except EmailNotValidError as error:
        raise ValueError(f"This does not look like an e-mail address: {_in_words(error)}") from None
    return EmailAddress(address=f"{local}@{domain}", key=f"{local}@{ascii_domain}".lower())


def key_of(text: str) -> str | None:
    """Return the identity key of what somebody typed, or None when it is no address at all."""
    try:
        return parse(text).key
    except ValueError:
        return None


def as_recorded(text: str | None) -> str | None:
    """Return what the record may hold of what somebody typed as their address: an address, and nothing else, because
    people type their password into the wrong field."""
    return text if text is not None and key_of(text) is not None else None


def suggestion(text: str) -> str | None:
    """Return what was probably meant, such as a@gmail.com for a@gmial.com or a@gmail,com; None where nothing is odd.

    A question for the writer, never a reason to refuse: the odd address may well be theirs.
    """
    local, _, domain = text.strip().rpartition("@")
    local, domain = local.rstrip("@ "), domain.lower()
    if not local or len(domain) > LONGEST:
        return None
    meant = _mended(domain)
    if meant is None:
        return None
    try:
        return parse(f"{local}@{meant}").address
    except ValueError:
        return None


@lru_cache(maxsize=2048)
def _mended(domain: str) -> str | None:
    """Return the domain without its typing mistake, or None where it seems to have none."""
    dotted = ".".join(part for part in domain.replace(",", ".").replace(" ", "").split(".") if part)
    meant = _with_real_ending(dotted)
    meant = next((common for common in _COMMON if _is_one_slip(meant, common)), meant)
    return meant if meant != domain and "." in meant else None


def _with_real_ending(domain: str) -> str:
    return next(
        (domain.removesuffix(wrong) + right for wrong, right in _ENDINGS.items() if domain.endswith(f".{wrong}")),
        domain,
    )


def _is_one_slip(typed: str, common: str) -> bool:
    """Say whether one letter left out, put in, mistaken or swapped with its neighbour makes one of the other.

    The name alone, without any ending, counts as well. A domain of the list, or a real neighbour, is no slip.
    """
    if typed in _COMMON or typed in _REAL_NEIGHBOURS:
        return False
    if typed == common.partition(".")[0]:
        return True
    if abs(len(typed) - len(common)) > 1:
        return False
    start = next((at for at, (a, b) in enumerate(zip(typed, common, strict=False)) if a != b), None)
    if start is None:
        return len(typed) != len(common)  # the last letter is missing, or one too many
    rest, other = typed[start:], common[start:]
    is_swapped = rest[:2] == other[:2][::-1] and rest[2:] == other[2:]
    return is_swapped or rest[1:] == other[1:] or rest[1:] == other or rest == other[1:]


@lru_cache(maxsize=2048)
def _checked_domain(domain: str) -> tuple[str, str]:
    """Return a domain as people write it and in ASCII. Most people share few of them. Raises EmailNotValidError."""
    return _checked(f"a@{domain}")[1:]


def _checked(text: str) -> tuple[str, str, str]:
    """Return local part, domain, and domain in ASCII. Raises EmailNotValidError."""
    valid = validate_email(text, check_deliverability=False, strict=True)
    return valid.local_part, valid.domain, valid.ascii_domain or valid.domain


def _in_words(error: EmailNotValidError) -> str:
    text = str(error).strip()
    return text[0].lower() + text[1:] if text else "please check it."
