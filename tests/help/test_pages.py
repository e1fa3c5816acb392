"""The help pages: each is well formed, short and linked, and a malformed one is refused with its line."""

import re
from pathlib import Path

import pytest
from bs4 import BeautifulSoup
from flask.testing import FlaskClient

from capecontrol.errors import NotFound
from capecontrol.help import pages
from capecontrol.help.pages import HelpPageError, Section, get_page, list_pages, list_sections, parse_page, read_pages
from tests.help.questions import ANSWERABLE, UNANSWERABLE

GOOD = """---
title: Signing in
summary: Getting in: how, and what to do when it does not work.
order: 50
---

## How to sign in
<!-- asked: how do I log in? | where is the login page? | do I need a user name? -->

Choose **Sign in**.

```
# a comment in code is no heading
```

## Staying signed in
<!-- asked: remember me | keep me signed in | why must I sign in again? -->

Tick the box.

## Signing out
<!-- asked: how do I log out? | log off | leave -->

Choose **Sign out**.
"""

ADDRESSES_BESIDE_PAGES = {"/help", "/help/api"}


def words(section: Section) -> int:
    return len(section.markdown.split())


def test_there_are_pages_in_their_order() -> None:
    orders = [page.order for page in list_pages()]
    assert len(orders) >= 14
    assert orders == sorted(orders)


def test_a_page_is_found_by_its_slug_and_an_unknown_one_is_not() -> None:
    page = list_pages()[0]
    assert get_page(page.slug) is page
    for slug in ("no-such-page", "", "../base", "passwords.md", "Passwords"):
        with pytest.raises(NotFound):
            get_page(slug)


def test_no_page_stands_where_the_description_of_the_json_does() -> None:
    assert "api" not in {page.slug for page in list_pages()}


def test_sections_come_in_reading_order_and_know_their_page() -> None:
    assert list_sections() == tuple(section for page in list_pages() for section in page.sections)
    assert all(section.page_slug == page.slug for page in list_pages() for section in page.sections)
    assert len({section.path for section in list_sections()}) == len(list_sections())


@pytest.mark.parametrize("section", list_sections(), ids=lambda section: section.path)
def test_a_section_is_short_and_stands_on_its_own(section: Section) -> None:
    assert 40 <= words(section) <= 140
    assert not re.search(r"[\[\]*_`<>]", section.title), "a title becomes the text of a link"
    assert not re.match(r"(Yes|Then|That|These|It|They|Either|Neither|Because)\b", section.markdown), (
        "the Guide quotes a section without what stands before it"
    )
    assert all(not re.search(r"[<>]|--", question) for question in section.asked)


@pytest.mark.parametrize("section", list_sections(), ids=lambda section: section.path)
def test_links_lead_to_sections_there_are(section: Section) -> None:
    anchored = {part.path for part in list_sections()} | ADDRESSES_BESIDE_PAGES
    for address in re.findall(r"\]\(([^)]*)\)", section.markdown):
        assert address in anchored, f"{section.path} links to {address}"


def test_titles_of_sections_are_told_apart_anywhere() -> None:
    titles = [section.title.casefold() for section in list_sections()]
    assert len(set(titles)) == len(titles)


def test_example_addresses_belong_to_nobody() -> None:
    text = "\n".join(section.markdown for section in list_sections())
    hosts = re.findall(r"https?://([\w.-]+)", text) + re.findall(r"@([\w.-]+\w)", text)
    assert all(host == "127.0.0.1" or host.endswith("example.com") for host in hosts)


def test_questions_of_the_measure_lead_to_sections_there_are_and_were_not_copied_into_the_help() -> None:
    known = {section.path.removeprefix("/help/") for section in list_sections()}
    assert {target for _, targets in ANSWERABLE for target in targets} <= known

    def bare(question: str) -> str:
        return " ".join(re.findall(r"\w+", question.casefold()))

    asked = {bare(question) for section in list_sections() for question in section.asked}
    assert not [question for question, _ in ANSWERABLE if bare(question) in asked]
    assert not [question for question in UNANSWERABLE if bare(question) in asked]


def test_every_page_is_served_with_its_sections_and_without_its_questions(client: FlaskClient) -> None:
    for page in list_pages():
        answer = client.get(f"/help/{page.slug}")
        assert answer.status_code == 200
        drawn = BeautifulSoup(answer.text, "html.parser")
        assert drawn.h1 is not None
        assert drawn.h1.get_text(strip=True) == page.title
        for section in page.sections:
            heading = drawn.find(id=section.anchor)
            assert heading is not None
            assert heading.get_text(strip=True) == section.title
        assert "asked:" not in answer.text


def test_a_page_is_parsed_into_sections_with_their_questions() -> None:
    page = parse_page("signing-in", GOOD, name="signing-in.md")
    assert (page.title, page.summary, page.order) == (
        "Signing in",
        "Getting in: how, and what to do when it does not work.",
        50,
    )
    assert [section.anchor for section in page.sections] == ["how-to-sign-in", "staying-signed-in", "signing-out"]
    first = page.sections[0]
    assert first.asked == ("how do I log in?", "where is the login page?", "do I need a user name?")
    assert first.markdown == "Choose **Sign in**.\n\n```\n# a comment in code is no heading\n```"
    assert first.path == "/help/signing-in#how-to-sign-in"


MALFORMED = {
    "begin with front matter": GOOD.removeprefix("---\n"),
    "line 2: front matter holds": GOOD.replace("title: Signing in", "titel: Signing in"),
    "line 4: front matter holds": GOOD.replace("order: 50", "order:"),
    "the front matter lacks summary": re.sub("summary: .*\n", "", GOOD),
    "order must be a whole number": GOOD.replace("order: 50", "order: soon"),
    "line 7: text stands in a section": GOOD.replace("## How", "Welcome.\n\n## How"),
    "line 7: a section begins with": GOOD.replace("## How", "# How"),
    "line 16: a section begins with": GOOD.replace("## Staying signed in", "### Staying signed in"),
    "line 8: below a heading stand": GOOD.replace("<!-- asked: how do I log in? | where", "<!-- asked: where"),
    "line 17: below a heading stand": GOOD.replace("<!-- asked: remember me | keep me", "<!-- remember me | keep me"),
    "line 22: below a heading stand": GOOD.replace("| log off | leave", "| log off | log off"),
    "line 21: the section 'Signing out' has no text": GOOD.replace("Choose **Sign out**.\n", ""),
    "line 16: the section 'Staying signed in' has a comment": GOOD.replace("Tick", "<!-- later --> Tick"),
    "more than one section has the anchor 'signing-out'": GOOD.replace("## Staying signed in", "## Signing out!"),
    "this one 2": GOOD[: GOOD.index("## Signing out")],
}


@pytest.mark.parametrize("complaint", MALFORMED)
def test_a_malformed_page_is_refused_with_its_line(complaint: str) -> None:
    with pytest.raises(HelpPageError, match=re.escape(complaint)) as refusal:
        parse_page("signing-in", MALFORMED[complaint], name="signing-in.md")
    assert str(refusal.value).startswith("signing-in.md")


def test_a_file_name_that_is_no_address_is_refused() -> None:
    with pytest.raises(HelpPageError, match="lower-case words"):
        parse_page("Signing_In", GOOD, name="Signing_In.md")


def test_two_pages_may_not_share_title_or_order(tmp_path: Path) -> None:
    (tmp_path / "one.md").write_text(GOOD)
    (tmp_path / "two.md").write_text(GOOD.replace("title: Signing in", "title: Another"))
    with pytest.raises(HelpPageError, match=r"one\.md, two\.md: the order 50"):
        read_pages(tmp_path)
    (tmp_path / "two.md").write_text(GOOD.replace("order: 50", "order: 60"))
    with pytest.raises(HelpPageError, match=r"one\.md, two\.md: the title 'Signing in'"):
        read_pages(tmp_path)


def test_a_folder_without_pages_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HelpPageError, match="holds no help pages"):
        read_pages(tmp_path)


def test_what_the_product_reads_is_its_own_folder() -> None:
    files = {path.stem for path in pages.HELP_FOLDER.glob("*.md")}
    assert files == {page.slug for page in list_pages()}
