"""The help, as anybody reads it."""

import pytest
from bs4 import Tag
from flask import Flask

from capecontrol.help.pages import list_pages
from tests.visitor import Visitor

SLUGS = [page.slug for page in list_pages()]


def test_there_are_at_least_twelve_pages_and_all_are_listed(visitor: Visitor) -> None:
    page = visitor.visit("/help")
    listed = {str(link["href"]) for link in page.find_all("a", href=True)}
    assert len(SLUGS) >= 12
    assert {f"/help/{slug}" for slug in SLUGS} <= listed


@pytest.mark.parametrize("slug", SLUGS)
def test_a_page_has_its_sections_and_leads_to_them(visitor: Visitor, slug: str) -> None:
    page = visitor.visit(f"/help/{slug}")
    links = {str(link["href"]).removeprefix("#") for link in page.find_all("a", href=True) if link["href"][0] == "#"}
    for section in next(each for each in list_pages() if each.slug == slug).sections:
        heading = page.find(id=section.anchor)
        assert isinstance(heading, Tag)
        assert heading.name == "h2"
        assert heading.get_text() == section.title
        assert section.anchor in links
    assert "asked:" not in page.answer.get_data(as_text=True), "the questions are for the Guide, not for readers"


def test_links_between_pages_lead_somewhere(visitor: Visitor) -> None:
    anchors: dict[str, set[str]] = {}
    links: set[str] = set()
    for slug in SLUGS:
        page = visitor.visit(f"/help/{slug}")
        anchors[f"/help/{slug}"] = {str(tag["id"]) for tag in page.find_all(id=True)}
        links |= {str(link["href"]) for link in page.find_all("a", href=True) if str(link["href"]).startswith("/help/")}
    for link in links - {"/help/api"}:
        path, _, anchor = link.partition("#")
        assert path in anchors, f"{link} leads nowhere"
        assert not anchor or anchor in anchors[path], f"{link} leads to no section"


@pytest.mark.parametrize("path", ["/help/no-such-page", "/help/..%2fbase", "/help/index.html", "/help/%00"])
def test_a_page_that_is_not_there_is_404(visitor: Visitor, path: str) -> None:
    visitor.visit(path, status=404)


def test_the_json_is_described_for_people(app: Flask, visitor: Visitor) -> None:
    words = visitor.visit("/help/api").words
    for path in ("/api/conversations/{conversation_id}/messages", "/api/auth/v2/register", "/api/openapi.json"):
        assert path in words
    assert "Post a message." in words


def test_signed_in_people_read_the_same(sign_in) -> None:
    assert sign_in().visit(f"/help/{SLUGS[0]}").h1 is not None


def test_the_landing_page_leads_to_an_account_or_to_the_conversations(visitor: Visitor, sign_in) -> None:
    page = visitor.visit("/")
    assert page.find("a", href="/register") is not None
    assert sign_in().visit("/").find("a", href="/conversations") is not None
