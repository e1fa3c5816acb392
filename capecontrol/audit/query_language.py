"""The language of the audit log's search field: `actor:thandi@example.com outcome:refused after:7d "fog in the bay"`.

A query is words with a name and a colon, which narrow, and words without, which are looked for as text. Everything
must hold; `event:` alone may stand several times, and then any of them will do. What cannot be understood is told in
words, beside what could; nothing is guessed and nothing is left out in silence. Between quotation marks everything is
taken as it is, and a quotation mark itself is written twice.
"""

import ipaddress
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

from capecontrol.audit import events
from capecontrol.audit.filtering import SYNONYMS, Filters, end_of, start_of
from capecontrol.web.text_rules import one_line

LONGEST = 1000
LONGEST_VALUE = 320
MOST_WORDS = 10
MOST_EVENTS = 30

NAMES = ("actor", "event", "category", "outcome", "ip", "after", "before")
_OTHER_NAMES = {
    "person": "actor",
    "user": "actor",
    "who": "actor",
    "type": "event",
    "action": "event",
    "result": "outcome",
    "address": "ip",
    "from": "after",
    "since": "after",
    "until": "before",
}
OUTCOMES = {
    "done": "success",
    "success": "success",
    "ok": "success",
    "refused": "refused",
    "failed": "refused",
    "failure": "refused",
}

_TOKEN = re.compile(
    r'(?P<name>[A-Za-z_]+):(?:"(?P<quoted>(?:[^"]|"")*)"|(?P<value>[^\s"]*))'
    r'|"(?P<phrase>(?:[^"]|"")*)"|(?P<word>[^\s"]+)'
)
_AGE = re.compile(r"(\d{1,6})(m|min|h|d|w)")
_BEGINNING = datetime.min.replace(tzinfo=UTC)
_AGES = {"m": "minutes", "min": "minutes", "h": "hours", "d": "days", "w": "weeks"}


@dataclass(frozen=True, slots=True)
class Term:
    """One part of a query. `name` is None for free text; `means` says in words what was understood."""

    name: str | None
    value: str
    means: str

    @property
    def text(self) -> str:
        """The term as one would write it."""
        value = _quoted(self.value)
        return f"{self.name}:{value}" if self.name else value


@dataclass(frozen=True, slots=True)
class Query:
    """What was understood of a search, and what was not."""

    terms: tuple[Term, ...] = ()
    problems: tuple[str, ...] = ()
    filters: Filters = field(default_factory=Filters)

    @property
    def text(self) -> str:
        """The query in its plain spelling: the address of a saved filter."""
        return " ".join(term.text for term in self.terms)

    def value_of(self, name: str) -> str:
        """Return the first value of this name, or nothing; for the fields beside the query."""
        return next((term.value for term in self.terms if term.name == name), "")

    def text_without(self, term: Term) -> str:
        """Return the query as it reads without one of its terms."""
        return " ".join(other.text for other in self.terms if other is not term)

    @property
    def last_day(self) -> date | None:
        """The last day that counts, whole or in part; None without an end."""
        before = self.filters.before
        return (before - timedelta(microseconds=1)).date() if before else None


class _Mistake(ValueError):
    """A part of a query that cannot be understood; its text is a sentence for people."""


@dataclass(slots=True)
class _Reading:
    """A query while it is read."""

    now: datetime
    event_types: Collection[str]
    terms: list[Term] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    found: dict[str, Any] = field(default_factory=dict)


def parse(text: str, *, now: datetime, event_types: Collection[str]) -> Query:
    """Read a query. `event_types` are the names there are; `now` is what `after:7d` counts from. Never raises."""
    try:
        text = one_line(text.replace("\t", " "), label="The search", limit=LONGEST)
    except ValueError as error:
        return Query(problems=(str(error),))
    reading = _Reading(now, event_types)
    if text.count('"') % 2:
        reading.problems.append('A quotation mark has no partner: write "two words" to keep them together.')
        text = text.replace('"', " ")
    for name, value in _tokens(text):
        try:
            _read(reading, name, value)
        except _Mistake as mistake:
            reading.problems.append(str(mistake))
    _check_span(reading)
    return Query(tuple(reading.terms), tuple(dict.fromkeys(reading.problems)), _filters(reading))


def written(fields: dict[str, str]) -> str:
    """Return the query that says what some fields say, by name; `words` is free text, taken as it is."""
    words = fields.get("words", "").strip()
    parts = [f"{name}:{_quoted(fields[name])}" for name in NAMES if fields.get(name)]
    return " ".join([*parts, words] if words else parts)


def can_hold(value: str) -> bool:
    """Say whether a query can hold exactly this; what a stranger gave as an address may be no line of text."""
    try:
        return one_line(value, label="", limit=LONGEST_VALUE) == value != "" and "\t" not in value
    except ValueError:
        return False


def _tokens(text: str) -> Iterator[tuple[str | None, str]]:
    for found in _TOKEN.finditer(text):
        if found["name"] is not None:
            yield found["name"], _unquoted(found["quoted"]) if found["quoted"] is not None else found["value"]
        else:
            yield None, _unquoted(found["phrase"]) if found["phrase"] is not None else found["word"]


def _read(reading: _Reading, written_name: str | None, value: str) -> None:
    value = value.strip()
    if written_name is None:
        _read_words(reading, value)
        return
    name = written_name.lower()
    name = _OTHER_NAMES.get(name, name)
    if name not in NAMES:
        listed = ", ".join(f"{each}:" for each in NAMES)
        raise _Mistake(
            f"There is no filter {written_name}: here, only {listed}. "
            f'To look for it as text, put it in quotation marks: "{written_name}:{value}"'
        )
    if not value:
        raise _Mistake(f"Say what comes after {name}: for example {name}:{_EXAMPLES[name]}")
    if len(value) > LONGEST_VALUE:
        raise _Mistake(f"What stands after {name}: is too long: at most {LONGEST_VALUE} characters.")
    if name != "event" and any(term.name == name for term in reading.terms):
        raise _Mistake(f"{name}: stands there twice, and an event has only one. Leave one of them out.")
    _READERS[name](reading, value)


def _read_words(reading: _Reading, value: str) -> None:
    if not value:
        return
    if sum(term.name is None for term in reading.terms) >= MOST_WORDS:
        raise _Mistake(f"At most {MOST_WORDS} words are looked for. Put those that stand together in quotation marks.")
    reading.found["q"] = (*reading.found.get("q", ()), value)
    reading.terms.append(Term(None, value, f"says “{value}”"))


def _read_actor(reading: _Reading, value: str) -> None:
    reading.found["person"] = value
    reading.terms.append(Term("actor", value, f"by or about {value}"))


def _read_event(reading: _Reading, value: str) -> None:
    pattern = value.lower()
    if "*" in pattern:
        begins, _, rest = pattern.partition("*")
        named = tuple(sorted(name for name in reading.event_types if name.startswith(begins))) if not rest else ()
    else:
        named = tuple(name for name in (*reading.event_types, *SYNONYMS) if name.lower() == pattern)[:1]
    if not named:
        raise _Mistake(f"There is no event called {value}.{_similar(pattern, reading.event_types)}")
    if len({*reading.found.get("event", ()), *named}) > MOST_EVENTS:
        raise _Mistake(f"event:{value} stands for more than {MOST_EVENTS} events. Say more of the name.")
    reading.found["event"] = tuple(dict.fromkeys((*reading.found.get("event", ()), *named)))
    reading.terms.append(Term("event", pattern if "*" in pattern else named[0], f"event {pattern}"))


def _read_category(reading: _Reading, value: str) -> None:
    if value.lower() not in events.CATEGORIES:
        raise _Mistake(f"There is no category {value}. There are {', '.join(events.CATEGORIES)}.")
    reading.found["category"] = value.lower()
    reading.terms.append(Term("category", value.lower(), f"category {value.lower()}"))


def _read_outcome(reading: _Reading, value: str) -> None:
    outcome = OUTCOMES.get(value.lower())
    if outcome is None:
        raise _Mistake(f"An outcome is done or refused, and not {value}.")
    reading.found["outcome"] = outcome
    plain = "done" if outcome == "success" else "refused"
    reading.terms.append(Term("outcome", plain, plain))


def _read_ip(reading: _Reading, value: str) -> None:
    try:
        address = str(ipaddress.ip_address(value))
    except ValueError:
        raise _Mistake(f"{value} is no internet address. One looks like 192.0.2.7 or 2001:db8::7.") from None
    reading.found["ip"] = address
    reading.terms.append(Term("ip", address, f"from {address}"))


def _read_after(reading: _Reading, value: str) -> None:
    moment, is_day = _moment(reading, "after", value)
    reading.found["after"] = start_of(moment) if is_day else moment
    reading.terms.append(Term("after", value, f"from {_told(reading.found['after'])} on"))


def _read_before(reading: _Reading, value: str) -> None:
    moment, is_day = _moment(reading, "before", value)
    if moment == _BEGINNING:
        raise _Mistake(f"before:{value} is before there was time.")
    reading.found["before"] = end_of(moment) if is_day else moment
    told = f"the end of {_told_day(moment)}" if is_day else _told(moment)
    reading.terms.append(Term("before", value, f"until {told}"))


_READERS: dict[str, Callable[[_Reading, str], None]] = {
    "actor": _read_actor,
    "event": _read_event,
    "category": _read_category,
    "outcome": _read_outcome,
    "ip": _read_ip,
    "after": _read_after,
    "before": _read_before,
}
_EXAMPLES = {
    "actor": "thandi@example.com",
    "event": "user_login",
    "category": "security",
    "outcome": "refused",
    "ip": "192.0.2.7",
    "after": "2026-11-24",
    "before": "2026-11-24",
}


def _moment(reading: _Reading, name: str, value: str) -> tuple[Any, bool]:
    """Return a day, or a moment in UTC, and which of the two it is. Raises _Mistake."""
    given = value.lower()
    today = reading.now.date()
    if given in ("today", "yesterday"):
        return today - timedelta(days=given == "yesterday"), True
    if age := _AGE.fullmatch(given):
        try:
            return reading.now - timedelta(**{_AGES[age[2]]: int(age[1])}), False
        except OverflowError:
            raise _Mistake(f"{name}:{value} is before there was time.") from None
    standard = value.upper()  # RFC 3339, 5.6: "t" and "z" will do; Python takes neither "z" nor "w"
    try:
        if len(standard) == len("2026-11-24"):
            return date.fromisoformat(standard), True
        moment = datetime.fromisoformat(standard)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC), False
    except (ValueError, OverflowError):
        raise _Mistake(
            f"{value} is no time. After {name}: give a day such as 2026-11-24, a moment such as 2026-11-24T09:30, "
            "today, yesterday, or how long ago: 30m, 24h, 7d."
        ) from None


def _check_span(reading: _Reading) -> None:
    after, before = reading.found.get("after"), reading.found.get("before")
    if after is not None and before is not None and after >= before:
        reading.problems.append("before: ends before after: begins, so nothing could be found. Give a longer span.")


def _filters(reading: _Reading) -> Filters:
    return replace(Filters(), **reading.found)


def _similar(given: str, event_types: Collection[str]) -> str:
    """Return which events could have been meant."""
    letters = given.replace("*", "").replace("-", "_")
    near = sorted(name for name in event_types if letters and (letters in name or name in letters))[:4]
    return f" Do you mean {' or '.join(near)}?" if near else " The list under Filters has all there are."


def _told(moment: datetime) -> str:
    if (moment.hour, moment.minute, moment.second) == (0, 0, 0):
        return _told_day(moment)
    return moment.strftime("%-d %B %Y, %H:%M UTC")


def _told_day(day: date) -> str:
    return f"{day.day} {day.strftime('%B')} {day.year}"


def _quoted(value: str) -> str:
    """Return a value as a query holds it: in quotation marks where it would be taken for several or for a filter."""
    value = value.strip()
    return '"' + value.replace('"', '""') + '"' if re.search(r'[\s"]|^[A-Za-z_]+:', value) else value


def _unquoted(value: str) -> str:
    return value.replace('""', '"')
