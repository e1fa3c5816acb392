"""Guard: every template parses and is used, nothing is inline, every script belongs to a page."""

import ast
import re
from collections.abc import Iterable
from pathlib import Path

import pytest
from flask import Flask
from jinja2 import Environment, TemplateSyntaxError

pytestmark = pytest.mark.guard

ROOT = Path(__file__).parent.parent
TEMPLATES = sorted((ROOT / "templates").rglob("*.html"))
SCRIPTS = sorted((ROOT / "static" / "js").glob("*.js"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT / "templates").as_posix()


def unnamed(names: Iterable[str], texts: Iterable[str]) -> list[str]:
    """Return the names that stand in none of the texts."""
    all_of_them = "\n".join(texts)
    return [name for name in names if name not in all_of_them]


def imported_for_nothing(text: str) -> list[str]:
    """Return the macros a template imports and does not use."""
    used = [
        name.split(" as ")[-1].strip()
        for names in re.findall(r"{%-?\s*from\s+\"[^\"]+\"\s+import\s+(.+?)\s*(?:with context\s*)?-?%}", text)
        for name in re.split(r",\s*", names.replace("without context", "").strip())
    ]
    return [name for name in used if len(re.findall(rf"\b{re.escape(name)}\b", text)) < 2]


def has_something_inline(text: str) -> bool:
    """Say whether a template holds a style, a handler or a script of its own, which the policy forbids."""
    return bool(re.search(r"<style\b|\sstyle=|\son[a-z]+=\"|<script(?![^>]*\bsrc=)", text))


def forms_without_token(text: str) -> int:
    """Count the forms that post without the token against forged requests."""
    forms = re.findall(r"<form\b[^>]*method=\"post\".*?</form>", text, flags=re.DOTALL | re.IGNORECASE)
    return sum(not re.search(r"csrf|hidden_tag", form) for form in forms)


def drawn(source: str) -> list[str]:
    """Return the templates a module draws."""
    return [
        node.args[0].value
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).endswith("render_template")
        and node.args
        and isinstance(node.args[0], ast.Constant)
    ]


@pytest.mark.parametrize("path", TEMPLATES, ids=name_of)
def test_a_template_parses(app: Flask, path: Path) -> None:
    app.jinja_env.get_template(name_of(path))


def test_no_template_is_orphaned() -> None:
    texts = [path.read_text() for path in (*TEMPLATES, *(ROOT / "capecontrol").rglob("*.py"))]
    assert unnamed((f'"{name_of(path)}"' for path in TEMPLATES), texts) == []


def test_no_script_is_orphaned() -> None:
    texts = [path.read_text() for path in (*TEMPLATES, *SCRIPTS)]
    assert unnamed((f"/{path.name}" for path in SCRIPTS), texts) == []


@pytest.mark.parametrize("path", TEMPLATES, ids=name_of)
def test_a_template_imports_only_what_it_uses(path: Path) -> None:
    assert imported_for_nothing(path.read_text()) == []


@pytest.mark.parametrize("path", TEMPLATES, ids=name_of)
def test_a_template_has_nothing_inline(path: Path) -> None:
    assert not has_something_inline(path.read_text()), "the policy forbids it"


@pytest.mark.parametrize("path", TEMPLATES, ids=name_of)
def test_every_form_that_posts_carries_the_token(path: Path) -> None:
    assert forms_without_token(path.read_text()) == 0


def test_every_template_a_view_names_exists() -> None:
    for path in (ROOT / "capecontrol").rglob("*.py"):
        for name in drawn(path.read_text()):
            assert (ROOT / "templates" / name).exists(), f"{path.name} draws {name}"


def test_the_guards_see_a_breach() -> None:
    assert unnamed(['"auth/lost.html"', '"base.html"'], ['{% extends "base.html" %}', "pass"]) == ['"auth/lost.html"']
    assert imported_for_nothing('{% from "macros/forms.html" import field, csrf %}{{ field(form.email) }}') == ["csrf"]
    assert imported_for_nothing('{% from "macros/forms.html" import field as one with context %}') == ["one"]
    for inline in (
        "<style>p { color: red }</style>",
        '<p style="color: red">',
        '<p onclick="go()">',
        "<script>go()</script>",
        '<script type="module">go()</script>',
    ):
        assert has_something_inline(inline)
    assert not has_something_inline('<script type="module" src="/static/js/menu.js"></script>')
    assert forms_without_token('<form class="x" method="post"><button>Send</button></form>') == 1
    assert forms_without_token('<form method="post">{{ csrf() }}</form><form method="POST"></form>') == 1
    assert drawn('page = render_template("auth/lost.html", x=1)') == ["auth/lost.html"]
    with pytest.raises(TemplateSyntaxError):
        Environment(autoescape=True).parse("{% if %}")
