"""A visitor of the pages: fetches like a browser, checks every page's hygiene, and sends the forms it was given."""

import re
from typing import Any

from bs4 import BeautifulSoup, Tag
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse


class Page(BeautifulSoup):
    """A fetched page, with the answer it came in."""

    answer: TestResponse

    @property
    def status(self) -> int:
        """The answer's status."""
        return self.answer.status_code

    @property
    def words(self) -> str:
        """Everything a person can read, on one line."""
        return " ".join(self.get_text(" ").split())

    def form(self, action: str) -> Tag:
        """Return the form that is sent to this path."""
        found = self.find("form", action=action)
        assert isinstance(found, Tag), f"no form for {action} on the page"
        return found


class Visitor:
    """One browser with its cookies, without JavaScript."""

    def __init__(self, app: Flask, **headers: str) -> None:
        self.client: FlaskClient = app.test_client()
        self.headers = headers
        self.page: Page | None = None

    def visit(self, path: str, *, status: int = 200) -> Page:
        """Fetch a page, following redirects."""
        answer = self.client.get(path, follow_redirects=True, headers=self.headers)
        return self._seen(answer, status)

    def send(self, action: str, *, status: int = 200, **fields: Any) -> Page:
        """Fill in the form of the page in front of the visitor and send it, following redirects.

        Fields that are not named keep what the page gave them; None empties one.
        """
        assert self.page is not None, "visit a page first"
        values = filled_in(self.page.form(action)) | fields
        sent = {name: value for name, value in values.items() if value is not None}
        answer = self.client.post(action, data=sent, follow_redirects=True, headers=self.headers)
        return self._seen(answer, status)

    def get(self, path: str, **kwargs: Any) -> TestResponse:
        """Fetch anything, as it is."""
        return self.client.get(path, **kwargs)

    def _seen(self, answer: TestResponse, status: int) -> Page:
        # Where a line may break is nothing a person reads; left in, it would divide a text in two.
        page = Page(answer.get_data(as_text=True).replace("<wbr>", ""), "html.parser")
        page.answer = answer
        assert answer.status_code == status, f"{answer.request.path} answered {answer.status_code}: {page.words[:300]}"
        check_hygiene(page)
        self.page = page
        return page


def filled_in(form: Tag) -> dict[str, str]:
    """Return what a browser would send of a form nobody touched."""
    values: dict[str, str] = {}
    for field in form.find_all(["input", "textarea", "select"]):
        name, kind = field.get("name"), field.get("type", "text")
        if not name or (kind in ("checkbox", "radio") and not field.has_attr("checked")) or kind == "submit":
            continue
        # A browser drops the line break that follows <textarea>.
        values[str(name)] = (
            re.sub(r"^\r?\n", "", field.get_text()) if field.name == "textarea" else str(field.get("value", ""))
        )
    return values


def check_hygiene(page: Page) -> None:
    """Fail for a page without title or main heading, with unlabelled fields, double ids or unprotected forms."""
    assert page.title is not None
    assert page.title.get_text(strip=True), "the page has no title"
    assert len(page.find_all("h1")) == 1, "a page has exactly one main heading"
    assert page.html is not None
    assert page.html.get("lang"), "the page does not say its language"
    ids = [tag["id"] for tag in page.find_all(id=True)]
    assert len(ids) == len(set(ids)), f"ids stand twice: {sorted({i for i in ids if ids.count(i) > 1})}"
    labelled = {label.get("for") for label in page.find_all("label")}
    for field in page.find_all(["input", "textarea", "select"]):
        if field.get("type") in ("hidden", "submit"):
            continue
        has_label = field.get("id") in labelled or field.find_parent("label") or field.get("aria-label")
        assert has_label, f"the field {field.get('name')} has no label"
    for form in page.find_all("form"):
        if str(form.get("method", "get")).lower() == "post":
            assert form.find("input", attrs={"name": "csrf_token"}), f"{form.get('action')} has no token"
    for tag in page.find_all(True):
        assert not tag.has_attr("style"), "inline style"
        assert not any(name.startswith("on") for name in tag.attrs), "inline script"
