"""The audit pages: the whole record for administrators, one's own for everybody."""

from datetime import UTC, datetime, timedelta

import pytest
from bs4 import Tag
from sqlalchemy import select
from sqlalchemy.orm import Session

from capecontrol import clock, ids
from capecontrol.audit.models import AuditLog
from tests.audit.recorded import make_event
from tests.people import PASSWORD, Person
from tests.visitor import Page, Visitor


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
        event_metadata={"method": "page", "remembered": True},
    )
    page = staff.visit("/audit")
    link = page.find("a", href=f"/audit/{row.event_id}")
    assert isinstance(link, Tag)
    page = staff.visit(f"/audit/{row.event_id}")
    for words in ("Thandi Nkosi signed in, to stay signed in", "192.0.2.9", "request-0001", row.event_id, "X11; Linux"):
        assert words in page.words


@pytest.mark.parametrize("reference", ["", "1", "abc", "../etc/passwd", "%00", "01a20b54-59b6-73dc-bed7"])
def test_what_is_no_event_is_a_404_page(staff: Visitor, reference: str) -> None:
    assert staff.get(f"/audit/{reference}").status_code == 404


def test_an_event_there_is_not_is_a_404_page(staff: Visitor) -> None:
    staff.visit(f"/audit/{ids.new_id()}", status=404)


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
    form = page.form("/audit")
    assert form.find("input", attrs={"name": "person"})["value"] == "WANTED@example.com"
    assert form.find("input", attrs={"name": "after"})["value"] == "2020-01-01"
    assert form.find("option", selected=True)["value"] == "user_login_failed"
    older = page.find("a", string=lambda text: text and "Older" in text) or page.find("a", rel="next")
    assert isinstance(older, Tag)
    page = staff.visit(str(older["href"]))
    assert len(sentences_on(page)) == 10
    assert page.find("a", rel="next") is None
    newest = next(a for a in page.find_all("a") if "Newest" in a.get_text())
    assert "person=WANTED" in newest["href"]
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
        "person=%F0%9F%90%A7",
        "person=%27%20OR%201%3D1",
        "event=&after=",
        "q=1&x=2",
    ],
)
def test_unusual_filters_are_no_errors(staff: Visitor, query: str) -> None:
    staff.visit(f"/audit?{query}")


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
