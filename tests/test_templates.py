"""Guard: every template parses and is used, nothing is inline, every script belongs to a page."""

import ast
import re
from pathlib import Path

import pytest
from flask import Flask

ROOT = Path(__file__).parent.parent
TEMPLATES = sorted((ROOT / "templates").rglob("*.html"))
SCRIPTS = sorted((ROOT / "static" / "js").glob("*.js"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT / "templates").as_posix()


@pytest.mark.parametrize("path", TEMPLATES, ids=name_of)
def test_a_template_parses(app: Flask, path: Path) -> None:
    app.jinja_env.get_template(name_of(path))


def test_no_template_is_orphaned() -> None:
    texts = [path.read_text() for path in (*TEMPLATES, *(ROOT / "capecontrol").rglob("*.py"))]
    for path in TEMPLATES:
        assert any(f'"{name_of(path)}"' in text for text in texts), f"nobody uses {name_of(path)}"


def test_no_script_is_orphaned() -> None:
    texts = [path.read_text() for path in (*TEMPLATES, *SCRIPTS)]
    for path in SCRIPTS:
        assert any(path.name in text for text in texts), f"nobody uses static/js/{path.name}"


@pytest.mark.parametrize("path", TEMPLATES, ids=name_of)
def test_a_template_imports_only_what_it_uses(path: Path) -> None:
    text = path.read_text()
    for names in re.findall(r"{%-?\s*from\s+\"[^\"]+\"\s+import\s+(.+?)\s*(?:with context\s*)?-?%}", text):
        for name in re.split(r",\s*", names.replace("without context", "").strip()):
            used = name.split(" as ")[-1].strip()
            assert len(re.findall(rf"\b{re.escape(used)}\b", text)) > 1, f"{name_of(path)} imports {used} for nothing"


@pytest.mark.parametrize("path", TEMPLATES, ids=name_of)
def test_a_template_has_nothing_inline(path: Path) -> None:
    text = path.read_text()
    assert not re.search(r"<style\b|\sstyle=|\son[a-z]+=\"|<script(?![^>]*\bsrc=)", text), "the policy forbids it"


@pytest.mark.parametrize("path", TEMPLATES, ids=name_of)
def test_every_form_that_posts_carries_the_token(path: Path) -> None:
    text = path.read_text()
    for form in re.findall(r"<form\b[^>]*method=\"post\".*?</form>", text, flags=re.DOTALL | re.IGNORECASE):
        assert re.search(r"csrf|hidden_tag", form), f"{name_of(path)} has a form without its token"


def test_every_template_a_view_names_exists() -> None:
    for path in (ROOT / "capecontrol").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            is_render = isinstance(node, ast.Call) and ast.unparse(node.func).endswith("render_template")
            if is_render and node.args and isinstance(node.args[0], ast.Constant):
                assert (ROOT / "templates" / node.args[0].value).exists(), f"{path.name} draws {node.args[0].value}"
