"""The closed list of letters: what each is made of, and how it reads as text and as HTML."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment

from capecontrol import clock

_SUBJECT = "Subject: "
_GAPS = re.compile(r"\n{3,}")  # what a template's own lines leave behind


@dataclass(frozen=True, slots=True)
class Letter:
    """A kind of mail. The text's first line is the subject; ordering it with other fields than `fields` raises."""

    name: str
    text: str
    html: str
    fields: frozenset[str]


@dataclass(frozen=True, slots=True)
class Written:
    """A letter with everything filled in."""

    subject: str
    text: str
    html: str


@dataclass(frozen=True, slots=True)
class Stationery:
    """What every letter is written on: the templates, and PUBLIC_URL, with which its links begin."""

    address: str
    templates: Environment


_listed: dict[str, Letter] = {}


def _letter(name: str, *fields: str, text: str, html: str) -> Letter:
    letter = Letter(name, text, html, frozenset(fields))
    if name in _listed:
        raise ValueError(f"the letter {name} is listed twice")
    _listed[name] = letter
    return letter


def all_letters() -> dict[str, Letter]:
    """Return every letter by its name."""
    return dict(_listed)


def write(name: str, fields: Mapping[str, Any], *, on: Stationery) -> Written:
    """Fill in a letter; every link in it is absolute. Raises KeyError or a template's error."""
    letter = _listed[name]

    def link(path: str) -> str:
        return f"{on.address}{path}"

    # Straight from the environment: a page's context (who is signed in, flashes) has no place in a mail.
    templates = on.templates
    filled = dict(fields) | {"link": link, "now": clock.now()}
    first, _, text = templates.get_template(letter.text).render(filled).partition("\n")
    if not first.startswith(_SUBJECT):
        raise ValueError(f"{letter.text} must begin with its subject")
    return Written(
        subject=" ".join(first.removeprefix(_SUBJECT).split()),
        text=_GAPS.sub("\n\n", text.strip()) + "\n",
        html=templates.get_template(letter.html).render(filled).strip() + "\n",
    )


# To administrators: what the record shows that needs somebody. Each alert is {title, sentence, advice, path}.
ALERTS = _letter("alerts", "alerts", "more", text="mail/alerts.txt", html="mail/alerts.html")
# To whoever reads the mailbox. What somebody else may have typed stays out: these letters could be sent to anybody.
# `path` leads to the page that confirms the address, and holds the link's secret.
VERIFY_EMAIL = _letter("verify_email", "path", text="mail/verify_email.txt", html="mail/verify_email.html")
ACCOUNT_EXISTS = _letter("account_exists", text="mail/account_exists.txt", html="mail/account_exists.html")
# To the person whose account it is.
NEW_DEVICE = _letter(
    "new_device",
    "name",
    "device",
    "ip_address",
    "at",
    text="mail/new_device.txt",
    html="mail/new_device.html",
)
