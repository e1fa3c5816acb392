"""The audit pages: the whole record for administrators, one's own for everybody."""

from datetime import UTC, datetime, timedelta

import pytest
from bs4 import BeautifulSoup, Tag
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from capecontrol import clock, ids
from capecontrol.audit import filtering, queries, query_language
from capecontrol.audit.events import all_events
from capecontrol.audit.models import AuditLog
from capecontrol.audit.views import READY_MADE
from tests.audit.recorded import make_event
from tests.people import PASSWORD, Person
from tests.visitor import Page, Visitor, filled_in


def sentences_on(page: Page) -> list[str]:
    return [link.get_text(strip=True) for link in page.select("a.events__link")]


@pytest.fixture
def staff(sign_in, admin: Person) -> Visitor:
    """Return a browser in which an administrator is signed in."""
    return sign_in(admin)


def test_administrators_find_what_everybody_did(staff: Visitor, person: Person) -> None:
    page = staff.visit("/audit")
    assert "Thandi Nkosi opened an account" in sentences_on(page)
    assert "user_registration" in page.words
    assert person.email in page.words


def test_an_event_is_read_in_full(staff: Visitor, db_session: Session, person: Person) -> None:
    row = make_event(
        db_session,
        user_id=person.id,
        actor_ref=person.id,
        user_email=person.email,
        ip_address="192.0.2.9",
        user_agent="Mozilla/5.0 (X11; Linux x86_64)",
        request_id="request-0001",
        event_description="Came back with the tide",
        event_metadata={"method": "page", "remembered": True},
    )
    page = staff.visit("/audit")
    link = page.find("a", href=f"/audit/{row.event_id}")
    assert isinstance(link, Tag)
    page = staff.visit(f"/audit/{row.event_id}")
    for words in (
        "Thandi Nkosi signed in, to stay signed in",
        "192.0.2.9",
        "request-0001",
        row.event_id,
        "X11; Linux",
        "Description Came back with the tide",
        f"Account that acted {person.id}",
        f"Number {row.id}",
    ):
        assert words in page.words
    assert page.find(id="request-title") is not None


def test_an_event_without_a_request_has_no_empty_card(staff: Visitor, db_session: Session) -> None:
    row = make_event(db_session, event_type="audit_key_changed", event_category="system")
    page = staff.visit(f"/audit/{row.event_id}")
    assert page.find(id="request-title") is None
    assert all(facts.find("div") for facts in page.select("dl.facts"))


def test_secrets_of_an_inherited_row_are_not_shown(staff: Visitor, db_session: Session) -> None:
    row = make_event(db_session, event_metadata={"token": "hunter2", "request": {"password": "hunter2", "form": "old"}})
    page = staff.visit(f"/audit/{row.event_id}")
    assert "old" in page.words
    assert "hunter2" not in page.words


@pytest.mark.parametrize("reference", ["", "1", "abc", "../etc/passwd", "%00", "01a20b54-59b6-73dc-bed7"])
def test_what_is_no_event_is_a_404_page(staff: Visitor, reference: str) -> None:
    assert staff.get(f"/audit/{reference}").status_code == 404


def test_an_event_there_is_not_is_a_404_page(staff: Visitor) -> None:
    staff.visit(f"/audit/{ids.new_id()}", status=404)


def test_an_erased_account_was_somebody(staff: Visitor, db_session: Session) -> None:
    row = make_event(db_session, event_type="conversation_started", actor_ref=ids.new_id())
    assert "an erased account" in staff.visit("/audit").select_one(f"[data-event='{row.event_id}']").get_text()
    assert "Person an erased account" in staff.visit(f"/audit/{row.event_id}").words


def test_an_address_breaks_behind_its_at_and_nowhere_else(staff: Visitor, db_session: Session) -> None:
    email = "<b>&thandi@example.com"
    row = make_event(db_session, event_type="user_login_failed", success=False, user_email=email)
    staff.visit("/audit")
    shown = staff.page.answer.text.split(f'data-event="{row.event_id}"')[1].split("</tr>")[0]
    assert shown.count("&lt;b&gt;&amp;thandi@<wbr>example.com") == 2, "in the sentence and as the person"
    staff.visit("/audit/statistics")
    assert "&lt;b&gt;&amp;thandi@<wbr>example.com" in staff.page.answer.text
    assert "<b>" not in staff.page.answer.text


def test_names_and_addresses_are_shown_as_text(staff: Visitor, db_session: Session) -> None:
    row = make_event(
        db_session,
        event_type="user_login_failed",
        success=False,
        user_email="<script>alert(1)</script>@example.com",
        event_metadata={"reason": "<img src=x onerror=alert(1)>"},
    )
    for path in ("/audit", f"/audit/{row.event_id}"):
        page = staff.visit(path)
        assert "<script>alert(1)</script>@example.com" in page.words
        assert not page.find("img")
        assert not [tag for tag in page.find_all("script") if "alert" in tag.get_text()]


def test_filters_narrow_and_stay_in_the_form_and_the_links(staff: Visitor, db_session: Session, noise: Person) -> None:
    for _ in range(60):
        make_event(db_session, event_type="user_login_failed", success=False, user_email="wanted@example.com")
    make_event(db_session, user_email=noise.email)
    page = staff.visit("/audit?event=user_login_failed&person=WANTED%40example.com&outcome=refused&after=2020-01-01")
    assert len(sentences_on(page)) == 50
    assert noise.email not in page.words
    form = page.find("form", class_="filters")
    assert isinstance(form, Tag)
    assert form.find("input", attrs={"name": "person"})["value"] == "WANTED@example.com"
    assert form.find("input", attrs={"name": "after"})["value"] == "2020-01-01"
    assert form.find("option", selected=True)["value"] == "user_login_failed"
    older = page.find("a", string=lambda text: text and "Older" in text) or page.find("a", rel="next")
    assert isinstance(older, Tag)
    page = staff.visit(str(older["href"]))
    assert len(sentences_on(page)) == 10
    assert page.find("a", rel="next") is None
    newest = next(a for a in page.find_all("a") if "Newest" in a.get_text())
    assert "WANTED%40example.com" in newest["href"] or "WANTED@example.com" in newest["href"]
    assert "older=" not in newest["href"]
    assert len(sentences_on(staff.visit(newest["href"]))) == 50


def test_the_last_day_is_included(staff: Visitor, db_session: Session) -> None:
    make_event(db_session, at=datetime(2021, 6, 16, 23, 30, tzinfo=UTC), user_email="late@example.com")
    assert len(sentences_on(staff.visit("/audit?person=late%40example.com&before=2021-06-16"))) == 1
    assert sentences_on(staff.visit("/audit?person=late%40example.com&before=2021-06-15")) == []
    assert len(sentences_on(staff.visit("/audit?after=2021-06-16&before=2021-06-16"))) == 1


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("after=yesterday", "Give a day such as 2026-11-24."),
        ("before=2026-02-30", "Give a day such as 2026-11-24."),
        ("before=99999-01-01", "Give a day such as 2026-11-24."),
        ("after=2026-11-24T00:00:00Z", "Give a day such as 2026-11-24."),
        ("after=2026-11-02&before=2026-11-01", "This day is before the first one."),
        ("outcome=perhaps", "Choose done, refused or any outcome."),
        ("event=no_such_event", "There is no event of that name."),
        ("event=%00", "There is no event of that name."),
        ("person=a%00b", "one line without control characters"),
        ("person=" + "a" * 321, "Person is too long"),
        ("q=before:0001-01-01T00:00Z", "before:0001-01-01T00:00Z is before there was time."),
        ("older=nonsense", "This page's address was changed on its way."),
        ("newer=%00", "This page's address was changed on its way."),
        ("older=MjAyNi0xMS0yNHxh", "This page's address was changed on its way."),
    ],
)
def test_a_bad_filter_is_told_in_words(staff: Visitor, query: str, words: str) -> None:
    page = staff.visit(f"/audit?{query}", status=422)
    assert words in page.words
    assert sentences_on(page) == []


@pytest.mark.parametrize(
    "query",
    [
        "after=0001-01-01",
        "before=9999-12-31",
        "before=0001-01-01",
        "q=after:0001-01-01T00:00Z+before:9999-12-31T23:59:59.999999Z",
        "q=after:9999-12-31T23:59:59.999999Z",
        "person=%F0%9F%90%A7",
        "person=%27%20OR%201%3D1",
        "event=&after=",
        "q=1&x=2",
    ],
)
def test_unusual_filters_are_no_errors(staff: Visitor, query: str) -> None:
    staff.visit(f"/audit?{query}")


def chips_on(page: Page) -> list[str]:
    return [chip.get_text(" ", strip=True) for chip in page.select(".chip > span")]


def test_the_fields_write_the_query_into_the_address(staff: Visitor) -> None:
    answer = staff.get("/audit?event=user_login&person=a%40example.com&outcome=success&before=2026-11-24&ip=192.0.2.1")
    assert answer.status_code == 303
    page = staff.visit(answer.headers["Location"])
    typed = page.find("input", id="q")
    assert isinstance(typed, Tag)
    assert typed["value"] == "actor:a@example.com event:user_login outcome:done ip:192.0.2.1 before:2026-11-24"


def test_a_query_is_shown_as_understood_and_each_part_can_be_left_out(staff: Visitor, db_session: Session) -> None:
    make_event(db_session, user_email="chip@example.com", event_description="Fog in the bay")
    page = staff.visit('/audit?q=actor:chip@example.com after:2020-01-01 "in the bay"')
    assert chips_on(page) == ["by or about chip@example.com", "from 1 January 2020 on", "says “in the bay”"]
    assert len(sentences_on(page)) == 1
    page = staff.visit(str(page.select(".chip__off")[2]["href"]))
    assert chips_on(page) == ["by or about chip@example.com", "from 1 January 2020 on"]


def test_what_the_fields_have_no_place_for_goes_on(staff: Visitor) -> None:
    page = staff.visit("/audit?q=event:user_login event:access_denied category:data outcome:done fog after:2026-11-01")
    values = filled_in(page.find("form", class_="filters"))
    assert values["words"] == "event:user_login event:access_denied category:data fog"
    assert (values["event"], values["after"]) == ("", "2026-11-01")
    answer = staff.get("/audit", query_string=values | {"outcome": "refused"})
    page = staff.visit(answer.headers["Location"])
    assert page.find("input", id="q")["value"] == (
        "outcome:refused after:2026-11-01 event:user_login event:access_denied category:data fog"
    )


def test_a_query_with_a_mistake_says_what_was_understood(staff: Visitor) -> None:
    page = staff.visit("/audit?q=actor:a@example.com outcome:perhaps", status=422)
    assert "An outcome is done or refused, and not perhaps." in page.words
    assert "Understood so far: by or about a@example.com." in page.words
    assert sentences_on(page) == []
    assert page.find("input", id="q")["value"] == "actor:a@example.com outcome:perhaps"


@pytest.mark.parametrize("query", [query for _, query in READY_MADE], ids=[words for words, _ in READY_MADE])
def test_the_ready_made_searches_are_understood(query: str) -> None:
    event_types = all_events()
    parsed = query_language.parse(query, now=clock.now(), event_types=event_types)
    assert parsed.problems == ()
    assert parsed.text == query


def test_the_count_ends_somewhere(staff: Visitor, db_session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(4):
        make_event(db_session, user_email="count@example.com")
    assert "4 events" in staff.visit("/audit?q=actor:count@example.com").words
    monkeypatch.setattr(queries, "MOST_COUNTED", 3)
    assert "More than 3 events" in staff.visit("/audit?q=actor:count@example.com").words


def test_a_search_that_has_not_seen_everything_says_so(
    staff: Visitor, db_session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filtering, "WINDOW", 2)
    for _ in range(3):
        make_event(db_session, user_email="far@example.com")
    make_event(db_session, user_email="far@example.com", event_type="role_changed")
    page = staff.visit("/audit?q=actor:far@example.com event:role_changed")
    assert "Nothing so far" in page.words
    page = staff.visit(str(page.find("a", rel="next")["href"]))
    assert len(sentences_on(page)) == 1


def test_new_events_are_fetched_for_the_open_page(staff: Visitor, db_session: Session) -> None:
    make_event(db_session, user_email="tail@example.com")
    page = staff.visit("/audit?q=actor:tail@example.com")
    address = page.select_one("[data-live]")["data-tail"]
    assert "Refresh" in page.words
    now = [make_event(db_session, user_email="tail@example.com", at=clock.now()) for _ in range(2)]
    make_event(db_session, user_email="other@example.com", at=clock.now())
    came = BeautifulSoup(staff.get(address).text, "html.parser")
    rows = [row["data-event"] for row in came.select("tr")]
    assert rows[:2] == [row.event_id for row in now[::-1]]
    again = BeautifulSoup(staff.get(came.tbody["data-tail"]).text, "html.parser")
    assert [row["data-event"] for row in again.select("tr")] == rows[:2]  # a slow commit could come between them
    assert "older@example.com" not in again.text


def test_a_flood_of_new_events_comes_page_by_page(staff: Visitor, db_session: Session) -> None:
    make_event(db_session, user_email="flood@example.com")
    address = staff.visit("/audit?q=actor:flood@example.com").select_one("[data-live]")["data-tail"]
    stored = {make_event(db_session, user_email="flood@example.com", at=clock.now()).event_id for _ in range(60)}
    seen: set[str] = set()
    for _ in range(2):
        came = BeautifulSoup(staff.get(address).text, "html.parser")
        seen |= {row["data-event"] for row in came.select("tr")}
        address = came.tbody["data-tail"]
    assert stored <= seen


@pytest.mark.parametrize("address", ["/audit/tail", "/audit/tail?newer=x", "/audit/tail?newer=AAAA&q=colour:red"])
def test_a_broken_tail_is_refused(staff: Visitor, address: str) -> None:
    assert staff.get(address).status_code == 422


def test_older_pages_and_pages_with_an_end_are_not_followed(staff: Visitor, db_session: Session) -> None:
    for _ in range(60):
        make_event(db_session, user_email="still@example.com")
    page = staff.visit("/audit?q=actor:still@example.com")
    assert page.select("[data-live]")
    assert not staff.visit(str(page.find("a", rel="next")["href"])).select("[data-live]")
    assert not staff.visit("/audit?q=before:today").select("[data-live]")


def test_an_event_stands_among_its_neighbours(staff: Visitor, db_session: Session, person: Person) -> None:
    at = clock.now() - timedelta(days=3)
    owner = {"user_id": person.id, "user_email": person.email}

    def happened(seconds: int, **columns: object) -> AuditLog:
        return make_event(db_session, at=at + timedelta(seconds=seconds), **columns)

    before = happened(-7200, event_type="conversation_started", **owner)
    in_session = happened(-300, session_id="session-1", event_type="conversation_renamed", **owner)
    in_request = happened(-1, request_id="request-1", ip_address="192.0.2.5", event_type="profile_updated", **owner)
    row = happened(0, request_id="request-1", session_id="session-1", ip_address="192.0.2.5", **owner)
    stranger = happened(1, ip_address="192.0.2.5", request_id="request-2", user_email="stranger@example.com")
    page = staff.visit(f"/audit/{row.event_id}")

    def listed(title: str) -> list[str]:
        section = page.find("section", attrs={"aria-labelledby": title})
        return [link["href"].rpartition("/")[2] for link in section.select("a.events__link")] if section else []

    assert listed("same-request") == [in_request.event_id]
    assert listed("same-session") == [in_session.event_id]
    assert before.event_id in listed("same-person")
    assert not {row.event_id, stranger.event_id, in_request.event_id} & set(listed("same-person"))
    assert page.find("a", rel="prev")["href"] == f"/audit/{stranger.event_id}"
    assert page.find("a", rel="next")["href"] == f"/audit/{in_request.event_id}"


def test_a_person_is_followed_through_the_log(
    staff: Visitor, db_session: Session, person: Person, noise: Person
) -> None:
    for number in range(60):
        make_event(db_session, user_id=person.id, event_type="conversation_started", at=clock.now() - timedelta(number))
    page = staff.visit(f"/audit/people/{person.id}")
    assert "Thandi Nkosi" in page.words
    assert f"{person.email}, a client." in page.words
    assert noise.email not in page.words
    assert len(page.select(".timeline__item")) == 50
    further = staff.visit(str(page.find("a", rel="next")["href"]))
    assert len(further.select(".timeline__item")) == 11
    assert staff.visit(f"/audit/people/{person.email.upper()}").words.count("started a conversation") == 49


def test_an_address_without_an_account_is_a_person_too(staff: Visitor, db_session: Session) -> None:
    make_event(db_session, event_type="user_login_failed", success=False, user_email="Guess@example.com")
    page = staff.visit("/audit/people/guess@example.com")
    assert "There is no account of this address" in page.words
    assert len(page.select(".timeline__item--refused")) == 1


def test_an_account_that_is_gone_is_followed_by_its_id(staff: Visitor, db_session: Session) -> None:
    gone = ids.new_id()
    row = make_event(db_session, actor_ref=gone, user_email="gone@example.com", event_type="conversation_started")
    make_event(db_session, actor_ref=gone, event_type="conversation_renamed")
    link = staff.visit(f"/audit/{row.event_id}").find("a", string="gone@example.com")
    page = staff.visit(str(link["href"]))
    assert f"There is no account {gone} any more." in page.words
    assert page.h1.get_text() == "gone@example.com"
    assert len(page.select(".timeline__item")) == 2


def test_a_persons_days_are_utcs_wherever_the_server_is(staff: Visitor, db_session: Session, person: Person) -> None:
    row = make_event(db_session, user_id=person.id, at=datetime(2026, 3, 1, 23, 30, tzinfo=UTC))
    db_session.execute(text("SET LOCAL timezone = 'Pacific/Auckland'"))
    db_session.commit()
    assert "Sunday, 1 March 2026" in [day.get_text() for day in staff.visit(f"/audit/people/{person.id}").select("h2")]
    assert "1 March 2026, 23:30:00 UTC" in staff.visit(f"/audit/{row.event_id}").words


@pytest.mark.parametrize("reference", ["nobody", "nobody@example.com", "%00", "a" * 400, "%F0%9F%90%A7", "' OR 1=1"])
def test_nobody_is_not_found(staff: Visitor, reference: str) -> None:
    staff.visit(f"/audit/people/{reference}", status=404)


def test_statistics_draw_what_is_in_the_table(staff: Visitor, db_session: Session) -> None:
    at = clock.now() - timedelta(days=2)
    for _ in range(3):
        make_event(db_session, at=at)
    make_event(db_session, at=at, event_type="user_login_failed", success=False, ip_address="192.0.2.44")
    page = staff.visit("/audit/statistics?days=30")
    table = page.select_one("details table")
    rows = [[cell.get_text(strip=True) for cell in row.find_all(["th", "td"])] for row in table.select("tbody tr")]
    assert len(rows) == 30
    assert [at.strftime("%A, %-d %B %Y"), "3", "1"] in rows
    columns = [title.get_text() for title in page.select(".chart g title")]
    assert f"{at.strftime('%A, %-d %B %Y')}: 3 done, 1 refused" in columns
    assert page.select_one("svg[role=img] desc").get_text().endswith("The numbers are in the table below.")
    assert "192.0.2.44" in page.words
    assert len(staff.visit("/audit/statistics?days=1").select("details table tbody tr")) == 24


@pytest.mark.parametrize("address", ["statistics?days=0", "statistics?days=91", "security?hours=5", "security?hours=x"])
def test_spans_that_are_not_on_offer_are_refused(staff: Visitor, address: str) -> None:
    staff.visit(f"/audit/{address}", status=422)


def test_empty_numbers_are_pages_too(staff: Visitor) -> None:
    for path in ("/audit/statistics", "/audit/statistics?days=1", "/audit/security", "/audit/failed-sign-ins"):
        staff.visit(path)


def test_failed_sign_ins_by_address_and_by_person(staff: Visitor, db_session: Session) -> None:
    for number in range(3):
        make_event(
            db_session,
            event_type="user_login_failed",
            success=False,
            ip_address="192.0.2.66",
            user_email=f"guess{number % 2}@example.com",
        )
    make_event(db_session, event_type="user_login_failed", success=False, user_email="GUESS0@example.com")
    page = staff.visit("/audit/failed-sign-ins")
    assert "4 failed sign-ins in the last 24 hours." in page.words
    by_address, by_person = page.select("table.numbers")
    assert " ".join(by_address.get_text(" ").split()).startswith("IP address Attempts Accounts Last 192.0.2.66 3 2")
    assert "guess0@example.com 3 1" in " ".join(by_person.get_text(" ").split())
    assert "guess1@example.com 1 1" in " ".join(by_person.get_text(" ").split())


STRANGE = ("o'neil@example.com", 'a "b c@example.com', "x outcome:done@example.com", "a/b?c#d%20@example.com")


@pytest.mark.parametrize("address", STRANGE)
@pytest.mark.parametrize("path", ["/audit/statistics", "/audit/failed-sign-ins"])
def test_a_name_leads_to_its_events_whatever_stands_in_it(
    staff: Visitor, db_session: Session, path: str, address: str
) -> None:
    row = make_event(db_session, event_type="user_login_failed", success=False, user_email=address)
    make_event(db_session, event_type="user_login_failed", success=False, user_email="other@example.com")
    link = next(link for link in staff.visit(path).find_all("a") if link.get_text() == address)
    assert [found["data-event"] for found in staff.visit(str(link["href"])).select("[data-event]")] == [row.event_id]


@pytest.mark.parametrize("address", STRANGE)
def test_a_row_leads_to_its_person_whatever_their_address(staff: Visitor, db_session: Session, address: str) -> None:
    make_event(db_session, event_type="user_login_failed", success=False, user_email=address)
    link = next(link for link in staff.visit("/audit").find_all("a") if link.get_text() == address)
    page = staff.visit(str(link["href"]))
    assert len(page.select(".timeline__item")) == 1
    refused = next(link for link in page.select("a.chip") if link.get_text() == "refused")
    assert len(staff.visit(str(refused["href"])).select("[data-event]")) == 1


def test_what_no_search_can_hold_is_shown_and_leads_nowhere(staff: Visitor, db_session: Session) -> None:
    row = make_event(db_session, event_type="user_login_failed", success=False, user_email="two\nlines@example.com")
    for path in ("/audit", f"/audit/{row.event_id}", "/audit/failed-sign-ins", "/audit/statistics"):
        page = staff.visit(path)
        assert "two lines@example.com" in page.words
        assert not [link for link in page.find_all("a") if link.get_text() == row.user_email]


def test_security_events_are_listed(staff: Visitor, db_session: Session) -> None:
    make_event(db_session, event_type="rate_limit_exceeded", success=False, user_email="fast@example.com")
    make_event(db_session, event_type="conversation_started", user_email="calm@example.com")
    page = staff.visit("/audit/security")
    assert "fast@example.com" in page.words
    assert "calm@example.com" not in page.words


def test_others_are_kept_out_and_their_try_is_recorded(sign_in, person: Person, db_session: Session) -> None:
    browser = sign_in(person)
    browser.visit("/audit", status=403)
    browser.visit(f"/audit/{ids.new_id()}", status=403)
    tries = db_session.scalars(select(AuditLog).where(AuditLog.event_type == "access_denied")).all()
    assert [row.user_id for row in tries] == [person.id, person.id]
    assert not any(row.success for row in tries)


def test_strangers_are_sent_to_sign_in(visitor: Visitor) -> None:
    for path in ("/audit", f"/audit/{ids.new_id()}", "/account/activity"):
        answer = visitor.get(path)
        assert answer.status_code == 303
        assert "/login?next=" in answer.headers["Location"]


def test_ones_own_activity_is_told_to_oneself(sign_in, person: Person, noise: Person, db_session: Session) -> None:
    make_event(db_session, user_id=noise.id, user_email=noise.email, event_type="session_ended")
    page = sign_in(person).visit("/account/activity")
    assert "You opened your account" in page.words
    assert "user_registration" in page.words
    assert "You signed in" in page.words
    assert "signed out on another device" not in page.words
    assert noise.email not in page.words


def test_a_refused_sign_in_to_ones_account_is_in_ones_activity(sign_in, person: Person, visitor: Visitor) -> None:
    visitor.visit("/login")
    visitor.send("/login", email=person.email, password="not-" + PASSWORD, status=401)
    page = sign_in(person).visit("/account/activity")
    assert "Somebody could not sign in to your account" in page.words
    assert "user_login_failed" in page.words


def test_activity_has_older_pages(sign_in, person: Person, db_session: Session) -> None:
    for _ in range(60):
        make_event(db_session, user_id=person.id, event_type="conversation_started", at=clock.now() - timedelta(days=1))
    browser = sign_in(person)
    page = browser.visit("/account/activity")
    assert len(page.select(".timeline__item")) == 50
    page = browser.visit(str(page.find("a", rel="next")["href"]))
    assert len(page.select(".timeline__item")) == 12  # the other ten, and the registration and sign-in are newer
    assert page.find("a", rel="next") is None


def test_a_broken_activity_address_is_a_page_in_words(sign_in) -> None:
    page = sign_in().visit("/account/activity?older=nonsense", status=422)
    assert "This place in the list is unknown. Begin again with its first page." in page.words
