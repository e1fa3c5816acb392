"""Reading the record by keyset and filter."""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta

import pytest
from flask import Flask
from sqlalchemy import event, text
from sqlalchemy.orm import Session

from capecontrol import clock, ids
from capecontrol.audit import filtering, queries
from capecontrol.audit.filtering import Filters
from capecontrol.audit.queries import Page
from capecontrol.errors import NotFound
from capecontrol.web.pagination import Position
from tests.audit.recorded import make_event
from tests.people import Person


@pytest.fixture
def search(app: Flask) -> Callable[..., Page]:
    """Return queries.search in a context of its own."""

    def searched(position: Position | None = None, limit: int = 50, **filters: object) -> Page:
        with app.app_context():
            return queries.search(Filters(**filters), position=position, limit=limit)

    return searched


def ids_of(page: Page) -> list[str]:
    return [found.event_id for found in page.events]


def test_the_newest_comes_first_and_paging_misses_nothing(db_session: Session, search) -> None:
    stored = [make_event(db_session, user_email="a@example.com").event_id for _ in range(7)]
    seen, position = [], None
    for _ in range(10):
        page = search(position, limit=3, person="a@example.com")
        seen += ids_of(page)
        position = page.older
        if position is None:
            break
    assert seen == stored  # each was made older than the one before


def test_events_of_the_same_moment_are_neither_lost_nor_repeated(db_session: Session, search) -> None:
    at = clock.now() - timedelta(hours=1)
    stored = {make_event(db_session, at=at, user_email="tie@example.com").event_id for _ in range(5)}
    first = search(limit=2, person="tie@example.com")
    second = search(first.older, limit=2, person="tie@example.com")
    third = search(second.older, limit=2, person="tie@example.com")
    assert len(ids_of(first) + ids_of(second) + ids_of(third)) == 5
    assert set(ids_of(first) + ids_of(second) + ids_of(third)) == stored
    assert third.older is None


def test_one_can_go_back_to_newer_pages(app: Flask, db_session: Session, search) -> None:
    for _ in range(6):
        make_event(db_session, user_email="back@example.com")
    filters = Filters(person="back@example.com")
    first = search(limit=2, person="back@example.com")
    second = search(first.older, limit=2, person="back@example.com")
    third = search(second.older, limit=2, person="back@example.com")
    assert first.newer is None
    assert third.older is None
    with app.app_context():
        again_second = queries.search_newer(filters, position=third.newer, limit=2)
        again_first = queries.search_newer(filters, position=again_second.newer, limit=2)
    assert ids_of(again_second) == ids_of(second)
    assert again_second.older == second.older
    assert ids_of(again_first) == ids_of(first)
    assert again_first.newer is None


def test_new_events_do_not_move_the_pages_after_them(db_session: Session, search) -> None:
    for _ in range(4):
        make_event(db_session, user_email="still@example.com")
    first = search(limit=2, person="still@example.com")
    before = ids_of(search(first.older, limit=2, person="still@example.com"))
    make_event(db_session, at=clock.now(), user_email="still@example.com")
    assert ids_of(search(first.older, limit=2, person="still@example.com")) == before


def test_filters_narrow_together(db_session: Session, search, person: Person, noise: Person) -> None:
    hers = make_event(db_session, user_id=person.id, event_type="session_ended", success=False)
    make_event(db_session, user_id=person.id, event_type="session_ended")
    make_event(db_session, user_id=noise.id, event_type="session_ended", success=False)
    make_event(db_session, user_id=person.id, success=False)
    found = search(person=person.id, event="session_ended", outcome="refused")
    assert ids_of(found) == [hers.event_id]


def test_a_person_is_found_by_address_in_any_case(db_session: Session, search) -> None:
    one = make_event(db_session, user_email="Mixed.Case@Example.com")
    make_event(db_session, user_email="mixed.case@example.com.attacker.example")
    assert ids_of(search(person="mixed.case@example.COM")) == [one.event_id]


def test_a_person_is_found_by_id(db_session: Session, search, person: Person, noise: Person) -> None:
    found = search(person=person.id)
    assert found.events
    assert {row.user_id for row in found.events} == {person.id}


@pytest.fixture
def turned_away(db_session: Session, person: Person) -> list[str]:
    """Return the ids of events that have nothing but the person's address, beside somebody else's."""
    make_event(db_session, user_email=f"x{person.email}", event_type="user_login_failed", success=False)
    make_event(db_session, actor_ref=ids.new_id(), user_email=person.email, event_type="session_ended")
    return [
        make_event(db_session, user_email=address, event_type=name, success=False).event_id
        for address, name in (
            (person.email, "user_registration_failed"),
            (person.email.upper(), "user_login_failed"),
            (person.email, "user_login_failed"),
        )
    ]


def test_an_account_is_found_with_what_has_only_its_address(
    app: Flask, search, person: Person, noise: Person, turned_away: list[str]
) -> None:
    opened = ids_of(search(for_person=person.id))
    assert opened
    assert ids_of(search(person=person.id)) == opened + turned_away
    assert ids_of(search(person=person.id, outcome="refused")) == turned_away
    seen, position = [], None
    for _ in range(10):
        page = search(position, limit=1, person=person.id)
        seen += ids_of(page)
        position = page.older
        if position is None:
            break
    assert seen == opened + turned_away
    with app.app_context():
        assert queries.count_up_to(Filters(person=person.id)) == len(seen)


def test_what_has_only_an_address_is_nobodys_own_record(search, person: Person, turned_away: list[str]) -> None:
    assert not set(ids_of(search(for_person=person.id, person=person.id))) & set(turned_away)


def test_an_account_that_is_gone_is_found_by_its_id(db_session: Session, search) -> None:
    gone = ids.new_id()
    kept = [make_event(db_session, actor_ref=gone, user_email=label) for label in ("gone@example.com", None)]
    make_event(db_session, actor_ref=ids.new_id(), user_email="gone@example.com")
    assert ids_of(search(person=gone)) == [row.event_id for row in kept]


def test_days_include_their_whole_day(db_session: Session, search) -> None:
    day = date(2020, 2, 29)
    inside = [
        make_event(db_session, at=datetime(2020, 2, 29, 23, 59, 59, 999000, UTC)),
        make_event(db_session, at=datetime(2020, 2, 29, 0, 0, tzinfo=UTC)),
    ]
    make_event(db_session, at=datetime(2020, 3, 1, tzinfo=UTC))
    make_event(db_session, at=datetime(2020, 2, 28, 23, 59, 59, tzinfo=UTC))
    found = search(after=filtering.start_of(day), before=filtering.end_of(day))
    assert ids_of(found) == [row.event_id for row in inside]


def test_the_first_and_the_last_day_there_is_are_days_too(db_session: Session, search) -> None:
    make_event(db_session, user_email="ever@example.com")
    found = search(person="ever@example.com", after=filtering.start_of(date.min), before=filtering.end_of(date.max))
    assert len(found.events) == 1


@pytest.mark.parametrize(
    ("asked", "stored"),
    [
        ("user_register", "user_registration"),
        ("user_login_failed", "login_failed"),
        ("configuration_changed", "system_config_change"),
    ],
)
def test_synonyms_of_the_inherited_vocabulary_are_one(db_session: Session, search, asked: str, stored: str) -> None:
    rows = [
        make_event(db_session, event_type=name, user_email="synonym@example.com")
        for name in (asked, stored, asked, stored)
    ]
    found = search(event=asked, person="synonym@example.com")
    assert ids_of(found) == [row.event_id for row in rows]
    first = search(limit=3, event=asked, person="synonym@example.com")
    assert ids_of(search(first.older, limit=3, event=asked, person="synonym@example.com")) == [rows[3].event_id]


def test_text_is_found_literally_in_description_address_and_name(db_session: Session, search) -> None:
    described = make_event(db_session, event_description="Moved 100% of the boats_now")
    make_event(db_session, event_description="Moved 1000 of the boatsXnow")
    assert ids_of(search(q="100% of the BOATS_now")) == [described.event_id]
    addressed = make_event(db_session, user_email="hout.bay@example.com")
    assert ids_of(search(q="hout.bay")) == [addressed.event_id]


def test_several_texts_must_all_be_found(db_session: Session, search) -> None:
    both = make_event(db_session, event_description="Two boats collided", error_message="Fog in the bay")
    make_event(db_session, event_description="Two boats raced")
    assert ids_of(search(q=("BOATS", "fog"))) == [both.event_id]


def test_text_is_found_in_the_persons_name(db_session: Session, search, person: Person) -> None:
    one = make_event(db_session, user_id=person.id, user_email=person.email, event_type="session_ended")
    assert one.event_id in ids_of(search(q="thandi nk"))
    assert search(q="thandi_nk").events == ()


def test_an_id_is_found_whichever_it_is(db_session: Session, search) -> None:
    wanted = ids.new_id()
    rows = [
        make_event(db_session, **{column: wanted}) for column in ("event_id", "request_id", "subject_id", "session_id")
    ]
    assert ids_of(search(q=wanted)) == [row.event_id for row in rows]


def test_an_address_is_found_exactly(db_session: Session, search) -> None:
    one = make_event(db_session, ip_address="192.0.2.1")
    make_event(db_session, ip_address="192.0.2.10")
    assert ids_of(search(ip="192.0.2.1")) == [one.event_id]


def test_any_of_several_events_in_one_order(db_session: Session, search) -> None:
    rows = [
        make_event(db_session, event_type=name, ip_address="192.0.2.1")
        for name in ("role_changed", "access_denied", "role_changed", "session_ended", "access_denied")
    ]
    wanted = [row.event_id for row in rows if row.event_type != "session_ended"]
    assert ids_of(search(event=("role_changed", "access_denied"), ip="192.0.2.1")) == wanted
    assert ids_of(search(event=("role_changed", "access_denied")))[-4:] == wanted


def test_what_is_rare_among_much_is_looked_for_within_bounds(
    app: Flask, db_session: Session, search, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filtering, "WINDOW", 5)
    rows = [make_event(db_session, user_email="much@example.com") for _ in range(8)]
    first = search(person="much@example.com", event="role_changed")
    assert first.events == ()
    assert first.looked_back_to == Position(rows[4].created_at, rows[4].event_id)
    second = search(first.older, person="much@example.com", event="role_changed")
    assert (second.events, second.older, second.looked_back_to) == ((), None, None)


def test_counts_end_somewhere(app: Flask, db_session: Session) -> None:
    for number in range(7):
        make_event(db_session, user_email="count@example.com", success=number % 2 == 0)
    with app.app_context():
        assert queries.count_up_to(Filters(person="count@example.com")) == 7
        assert queries.count_up_to(Filters(person="count@example.com"), most=5) == 6
        assert queries.count_up_to(Filters(event=("no_such", "neither"))) == 0
        assert queries.count_up_to(Filters(person="count@example.com", outcome="refused")) is None
        assert queries.count_up_to(Filters(event="user_login", after=clock.now() - timedelta(seconds=1))) == 0


def test_category_and_risk_narrow(db_session: Session, search) -> None:
    risky = make_event(db_session, event_category="security", risk_score=80)
    make_event(db_session, event_category="security", risk_score=20)
    make_event(db_session, event_category="security")
    make_event(db_session, event_category="data", risk_score=90)
    assert ids_of(search(category="security", min_risk_score=70)) == [risky.event_id]
    assert len(search(category="security", min_risk_score=0).events) == 3


def test_a_search_without_index_ends_and_can_go_on(
    db_session: Session, search, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filtering, "WINDOW", 5)
    for _ in range(12):
        make_event(db_session, user_email="window@example.com")
    oldest = make_event(db_session, user_email="window@example.com", event_category="security")
    seen, position, pages = [], None, 0
    while pages < 10:
        page = search(position, person="window@example.com", category="security")
        seen += ids_of(page)
        pages, position = pages + 1, page.older
        if position is None:
            break
    assert seen == [oldest.event_id]
    assert pages == 3


def test_ones_own_record_is_ones_own_whatever_else_is_asked(
    db_session: Session, search, person: Person, noise: Person
) -> None:
    make_event(db_session, user_id=noise.id, user_email=noise.email)
    assert search(for_person=person.id, person=noise.id).events == ()
    assert search(for_person=person.id, person=noise.email).events == ()
    assert {row.user_id for row in search(for_person=person.id).events} == {person.id}


def test_one_event_is_found_by_its_id_and_by_its_number(app: Flask, db_session: Session, person: Person) -> None:
    row = make_event(db_session, user_id=person.id, user_email=person.email)
    with app.app_context():
        assert queries.get_event(row.event_id).event_id == row.event_id
        assert queries.get_event(str(row.id)).sentence == "Thandi Nkosi signed in"
        assert queries.get_event(str(row.id), for_person=person.id).person == person.email


@pytest.mark.parametrize(
    "reference",
    [
        "",
        "0",
        "-1",
        "abc",
        "1e3",
        "٣",
        "9" * 18,
        "9" * 40,
        "a\x00b",
        "' OR 1=1 --",
        "01a20b6e-dbe0-74ff-8117-7f894e329b3d",
    ],
)
def test_what_is_no_event_is_not_found(app: Flask, reference: str) -> None:
    with app.app_context(), pytest.raises(NotFound):
        queries.get_event(reference)


def test_somebody_elses_event_is_not_found(app: Flask, db_session: Session, person: Person, noise: Person) -> None:
    row = make_event(db_session, user_id=noise.id)
    with app.app_context(), pytest.raises(NotFound):
        queries.get_event(row.event_id, for_person=person.id)


def test_event_types_are_ours_and_the_inherited(app: Flask, db_session: Session) -> None:
    make_event(db_session, event_type="ddos_attempt")
    make_event(db_session, event_type="ddos_attempt")
    with app.app_context():
        names = queries.list_event_types()
    assert "ddos_attempt" in names
    assert "user_registration_failed" in names
    assert names == sorted(set(names))


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"event": "user_login"}, 1),
        ({"person": "a@example.com"}, 1),
        ({"event": "user_login", "outcome": "success", "person": "a@example.com"}, 2),  # and whether that was all
    ],
)
def test_a_page_is_one_statement_or_two(
    connection, db_session: Session, search, filters: dict[str, str], expected: int
) -> None:
    make_event(db_session)
    statements: list[str] = []
    listening = lambda *args: statements.append(args[2])  # noqa: E731
    event.listen(connection, "before_cursor_execute", listening)
    search(**filters)
    event.remove(connection, "before_cursor_execute", listening)
    assert sum("FROM audit_logs" in statement for statement in statements) == expected


@pytest.mark.parametrize(
    ("filters", "index"),
    [
        ({}, "ix_audit_logs_created_at_event_id"),
        ({"event": "session_ended"}, "ix_audit_logs_event_type_created_at_event_id"),
        ({"person": "person7@example.com"}, "ix_audit_logs_email"),
        ({"person": "nobody-7"}, "ix_audit_logs_user_id_created_at_event_id"),
        ({"person": "nobody-7"}, "ix_audit_logs_without_account"),
        ({"for_person": "nobody-7"}, "ix_audit_logs_user_id_created_at_event_id"),
        ({"for_person": "nobody-7", "with_readings": True}, "ix_audit_logs_user_id_created_at_event_id"),
        ({"for_person": "nobody-7", "with_readings": True}, "ix_audit_logs_read_by_staff"),
        ({"outcome": "refused"}, "ix_audit_logs_refused"),
        ({"ip": "192.0.2.77"}, "ix_audit_logs_ip_address_created_at"),
    ],
)
def test_every_filter_of_the_page_has_its_index(
    connection, db_session: Session, search, filters: dict[str, str], index: str
) -> None:
    db_session.execute(text("SET LOCAL statement_timeout = 0"))  # a busy machine may take its time to fill
    db_session.execute(
        text(
            "INSERT INTO audit_logs (event_id, user_email, event_type, event_category, event_level, success, "
            "ip_address, created_at) SELECT 'plan-' || n, 'person' || n % 500 || '@example.com', "
            "'kind' || n % 100, 'data', 'info', n % 200 > 0, '192.0.2.' || n % 250, now() - n * interval '1 minute' "
            "FROM generate_series(1, 20000) AS n"
        )
    )
    db_session.execute(text("ANALYZE audit_logs"))
    db_session.commit()
    plans: list[str] = []

    def explain(_connection, _cursor, statement, parameters, _context, _many) -> None:
        if statement.startswith("SELECT") and "FROM audit_logs" in statement:
            cursor = connection.connection.cursor()
            cursor.execute(f"EXPLAIN {statement}", parameters)
            plans.append("\n".join(line for (line,) in cursor))

    event.listen(connection, "before_cursor_execute", explain)
    search(**filters)
    event.remove(connection, "before_cursor_execute", explain)
    assert len(plans) == 1
    assert index in plans[0], plans[0]
    assert "Seq Scan on audit_logs" not in plans[0], plans[0]
