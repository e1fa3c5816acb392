"""The search field's language: what is understood, and what is told in words."""

from datetime import UTC, date, datetime, timedelta

import pytest

from capecontrol.audit import query_language
from capecontrol.audit.filtering import Filters
from capecontrol.audit.query_language import Query

NOW = datetime(2026, 11, 24, 20, 30, 15, tzinfo=UTC)
EVENTS = ["access_denied", "ddos_attempt", "user_login", "user_login_failed", "user_registration"]


def parse(text: str) -> Query:
    return query_language.parse(text, now=NOW, event_types=EVENTS)


def day(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "filters"),
    [
        ("", Filters()),
        ("   ", Filters()),
        ("actor:thandi@example.com", Filters(person="thandi@example.com")),
        ("ACTOR:7d0c1f1e", Filters(person="7d0c1f1e")),
        ('actor:"somebody else"', Filters(person="somebody else")),
        ("event:user_login", Filters(event=("user_login",))),
        ("event:USER_LOGIN event:access_denied", Filters(event=("user_login", "access_denied"))),
        ("event:user_login*", Filters(event=("user_login", "user_login_failed"))),
        ("event:login_failed", Filters(event=("login_failed",))),
        ("category:Security", Filters(category="security")),
        ("outcome:done", Filters(outcome="success")),
        ("outcome:success", Filters(outcome="success")),
        ("outcome:failed", Filters(outcome="refused")),
        ("ip:192.0.2.7", Filters(ip="192.0.2.7")),
        ("ip:2001:DB8:0::7", Filters(ip="2001:db8::7")),
        ("after:2026-11-01", Filters(after=day(2026, 11, 1))),
        ("before:2026-11-01", Filters(before=day(2026, 11, 2))),
        ("after:2026-11-01T09:30", Filters(after=day(2026, 11, 1, 9, 30))),
        ("after:2026-11-01T09:30+02:00", Filters(after=day(2026, 11, 1, 7, 30))),
        ("before:2026-11-01T09:30Z", Filters(before=day(2026, 11, 1, 9, 30))),
        ("after:today", Filters(after=day(2026, 11, 24))),
        ("before:yesterday", Filters(before=day(2026, 11, 24))),
        ("after:7d", Filters(after=NOW - timedelta(days=7))),
        ("after:36h before:30m", Filters(after=NOW - timedelta(hours=36), before=NOW - timedelta(minutes=30))),
        ('actor:"a""b"', Filters(person='a"b')),
        ('"say ""fog"" twice" boats', Filters(q=('say "fog" twice', "boats"))),
        ('"""fog"""', Filters(q=('"fog"',))),
        ("boats fog", Filters(q=("boats", "fog"))),
        ('"boats in the fog"', Filters(q=("boats in the fog",))),
        ('"foo:bar"', Filters(q=("foo:bar",))),
        ("thandi@example.com", Filters(q=("thandi@example.com",))),
        ("10:30 100%_", Filters(q=("10:30", "100%_"))),
        (
            'event:user_login "in the fog" outcome:refused boats',
            Filters(event=("user_login",), outcome="refused", q=("in the fog", "boats")),
        ),
    ],
)
def test_what_is_understood(text: str, filters: Filters) -> None:
    query = parse(text)
    assert query.problems == ()
    assert query.filters == filters


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("colour:red", "There is no filter colour: here, only actor:, event:"),
        ("colour:red", 'put it in quotation marks: "colour:red"'),
        ("actor:", "Say what comes after actor: for example actor:thandi@example.com"),
        ("ip: 192.0.2.7", "Say what comes after ip: for example ip:192.0.2.7"),
        ("outcome:perhaps", "An outcome is done or refused, and not perhaps."),
        ("event:login", "There is no event called login. Do you mean user_login or user_login_failed?"),
        ("event:xyz", "There is no event called xyz. The list under Filters has all there are."),
        ("event:*login", "There is no event called *login."),
        ("category:weather", "There is no category weather. There are authentication, authorization,"),
        ("ip:localhost", "localhost is no internet address."),
        ("ip:192.0.2.256", "192.0.2.256 is no internet address."),
        ("after:soon", "soon is no time."),
        ("after:2026-02-30", "2026-02-30 is no time."),
        ("before:0001-01-01T00:00+14:00", "is no time."),
        ("after:999999w", "is before there was time."),
        ("before:0001-01-01T00:00", "before:0001-01-01T00:00 is before there was time."),
        ("before:0001-01-01T00:00Z", "is before there was time."),
        ("before:0001-01-01T02:00+02:00", "is before there was time."),
        ("actor:a actor:b", "actor: stands there twice"),
        ("who:a person:b", "actor: stands there twice"),
        ("after:2026-11-24 before:2026-11-23", "before: ends before after: begins"),
        ("after:1h before:2h", "before: ends before after: begins"),
        ('one "two', "A quotation mark has no partner"),
        ("a\x00b", "The search must be one line without control characters."),
        ("a" * 1001, "The search is too long: at most 1,000 characters"),
        ("actor:" + "a" * 321, "is too long: at most 320 characters"),
        ("a b c d e f g h i j k", "At most 10 words are looked for."),
    ],
)
def test_what_is_not_understood_is_told_in_words(text: str, words: str) -> None:
    assert words in " ".join(parse(text).problems)


def test_beside_a_mistake_stands_what_was_understood() -> None:
    query = parse("actor:a@example.com colour:red outcome:perhaps after:2026-11-01 fog")
    assert len(query.problems) == 2
    assert [term.means for term in query.terms] == [
        "by or about a@example.com",
        "from 1 November 2026 on",
        "says “fog”",
    ]


@pytest.mark.parametrize(
    "text",
    [
        'actor:"a b" event:user_login* outcome:refused "in the fog" "foo:bar" boats',
        "after:7d before:today ip:192.0.2.7",
        'category:data "http://example.com"',
        'actor:"a""b c" "say ""fog"" twice"',
    ],
)
def test_a_query_written_down_again_means_the_same(text: str) -> None:
    query = parse(text)
    assert parse(query.text) == query
    assert query.problems == ()


@pytest.mark.parametrize("name", ["after", "before"])
@pytest.mark.parametrize(
    "moment",
    [
        "2026-11-20",
        "2026-W47-5",
        "2026-w47-5",
        "20261120",
        "2026W475",
        "2026-11-20T09:30",
        "2026-11-20t09:30:15.25z",
        "2026-11-20T09:30Z",
        "2026-W47-5T09:30Z",
        "2026-11-20T09:30+02:00",
        '"2026-11-20 09:30"',
        "today",
        "Yesterday",
        "90min",
        "36H",
        "7d",
        "2w",
    ],
)
def test_a_moment_written_down_again_is_the_same(name: str, moment: str) -> None:
    query = parse(f"{name}:{moment}")
    assert query.problems == ()
    again = parse(query.text)
    assert again.problems == ()
    assert again.filters == query.filters


def test_one_part_can_be_left_out() -> None:
    query = parse('event:user_login event:access_denied "in the fog"')
    assert [query.text_without(term) for term in query.terms] == [
        'event:access_denied "in the fog"',
        'event:user_login "in the fog"',
        "event:user_login event:access_denied",
    ]


def test_fields_write_the_query() -> None:
    fields = {"actor": 'a"b c', "event": "user_login", "outcome": "", "words": 'fog "in the bay"'}
    assert query_language.written(fields) == 'actor:"a""b c" event:user_login fog "in the bay"'
    assert query_language.written({}) == ""


@pytest.mark.parametrize(
    "value", ["o'neil@example.com", 'a b"@example.com', '"" outcome:done', "event:user_login", 'x"y"z', "a&#39;b%20c"]
)
def test_a_query_holds_whatever_is_one_line_of_text(value: str) -> None:
    assert query_language.can_hold(value)
    query = parse(query_language.written({"actor": value, "outcome": "refused"}))
    assert query.problems == ()
    assert query.filters == Filters(person=value, outcome="refused")


@pytest.mark.parametrize("value", ["", " a", "a\n", "a\nb", "a\tb", "a\x1bb", "a" * 321])
def test_a_query_does_not_hold_what_is_none(value: str) -> None:
    assert not query_language.can_hold(value)


@pytest.mark.parametrize(
    ("text", "last_day"),
    [
        ("after:0001-01-01 before:9999-12-31", date.max),
        ("after:0001-01-01T00:00 before:9999-12-31T23:59:59.999999", date.max),
        ("before:0001-01-01", date.min),
        ("before:0001-01-01T00:00:00.000001", date.min),
        ("after:9999-12-31T23:59:59.999999", None),
    ],
)
def test_the_first_and_the_last_day_are_no_errors(text: str, last_day: date | None) -> None:
    query = parse(text)
    assert query.problems == ()
    assert query.last_day == last_day


def test_too_many_events_are_refused() -> None:
    many = [f"kind_{number}" for number in range(31)]
    query = query_language.parse("event:kind*", now=NOW, event_types=many)
    assert "more than 30 events" in query.problems[0]
