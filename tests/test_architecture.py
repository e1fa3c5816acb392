"""Guard: imports obey the house's table, and files keep the house's habits."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "capecontrol"
FEATURES = ("conversations", "auth", "audit")
VIEW_FILES = {"views.py", "api.py", "cli.py", "tasks.py"}
SHAPE_FILES = {"forms.py", "schemas.py"}
BOTTOM = {"extensions.py", "errors.py", "clock.py", "ids.py", "config.py", "server_config.py"}
SAY_NOTHING = {"utils", "util", "helpers", "helper", "common", "misc", "base", "manager", "handler"}

# Files inside a feature that are neither services nor of a named role: they tell the request to the rest.
REQUEST_AWARE = {
    "auth/identity.py",
    "auth/waiting_cookie.py",
    "audit/origin.py",
    "audit/recorder.py",
    "conversations/events.py",
}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """Yield every imported name in full, leaving out what only type checkers read."""
    tree = ast.parse(path.read_text())
    skipped: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            skipped.update(child for statement in node.body for child in ast.walk(statement))
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def feature_of(name: str) -> str | None:
    match = re.match(r"capecontrol\.(\w+)\.", name)
    return match[1] if match else None


def is_service(path: Path) -> bool:
    name = name_of(path)
    return (
        name.split("/")[0] in FEATURES
        and path.name not in VIEW_FILES | SHAPE_FILES | {"models.py", "__init__.py"}
        and name not in REQUEST_AWARE
    )


def breaches(path: Path) -> list[str]:
    """Return what this file imports against the table in the house rules."""
    name, found = name_of(path), []
    feature = name.split("/")[0]
    for imported in imports(path):
        ours = imported.startswith("capecontrol.")
        target = feature_of(imported)
        if path.name in VIEW_FILES and feature in (*FEATURES, "help"):
            if imported.startswith("sqlalchemy") or imported == "capecontrol.extensions.db" or ".models" in imported:
                found.append(f"{name} imports {imported}: let the service ask the database")
        elif path.name in SHAPE_FILES:
            if ".models" in imported or imported.endswith((".db", ".service")) or imported.startswith("sqlalchemy"):
                found.append(f"{name} imports {imported}: shapes have no side effects")
        elif path.name == "models.py":
            if (
                ours
                and imported.split(".")[1] not in ("extensions", "clock", "ids")
                and imported
                not in (
                    "capecontrol.clock",
                    "capecontrol.ids",
                )
            ):
                found.append(f"{name} imports {imported}: models stand on extensions, clock and ids alone")
        elif name in BOTTOM:
            if ours:
                found.append(f"{name} imports {imported}: the bottom imports nothing of ours")
        elif is_service(path) and imported.split(".")[0].startswith("flask"):
            found.append(f"{name} imports {imported}: pass the value, not the request")
        is_door = path.name in ("views.py", "api.py") and imported.startswith("capecontrol.auth.identity.")
        is_backwards = feature in FEATURES and target in FEATURES and FEATURES.index(target) < FEATURES.index(feature)
        if is_backwards and not is_door:
            found.append(f"{name} imports {imported}: the direction is conversations -> auth -> audit")
        if target == "operations" and feature != "operations" and name != "__init__.py":
            found.append(f"{name} imports {imported}: nobody imports operations")
        if imported == "capecontrol.create_app" and name != "operations/worker.py":
            found.append(f"{name} imports the factory: only wsgi.py, the worker and tests do")
        if "audit.recorder" in imported and (path.name in VIEW_FILES) and feature != "audit":
            found.append(f"{name} imports {imported}: what happened is recorded from services")
    return found


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_imports_go_one_way(path: Path) -> None:
    assert breaches(path) == []


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_a_module_opens_with_one_sentence(path: Path) -> None:
    text = ast.get_docstring(ast.parse(path.read_text()))
    assert text, f"{name_of(path)} does not say what it is"
    first = text.split("\n\n")[0].replace("\n", " ")
    assert first.endswith("."), f"{name_of(path)} opens with {first!r}, which is no sentence"


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_a_module_is_named_for_what_it_knows(path: Path) -> None:
    parts = set(path.relative_to(PACKAGE).with_suffix("").parts)
    assert not parts & SAY_NOTHING, f"rename {name_of(path)}: the name says nothing"


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_a_module_fits_in_the_head(path: Path) -> None:
    lines = len(path.read_text().splitlines())
    assert lines <= 500, f"{name_of(path)} has {lines} lines: split the idea"


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_nothing_is_swallowed_in_silence(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ExceptHandler):
            is_silent = len(node.body) == 1 and isinstance(node.body[0], ast.Pass)
            assert not is_silent, f"{name_of(path)}:{node.lineno} swallows an error in silence"


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_public_functions_say_what_they_do(path: Path) -> None:
    tree = ast.parse(path.read_text())
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{name_of(path)}: {node.name} has no docstring"


# The two that may, each in one place, and the trigger on the table holds both to it.
CHANGE_THE_RECORD = {"audit/erasure.py": ["UPDATE audit_logs"], "audit/retention.py": ["DELETE FROM audit_logs"]}


def test_no_code_updates_or_deletes_the_record() -> None:
    forbidden = re.compile(
        r"(delete\(AuditLog|update\(AuditLog|DELETE FROM audit_logs|UPDATE audit_logs)", re.IGNORECASE
    )
    for path in modules():
        found = forbidden.findall(path.read_text())
        allowed = CHANGE_THE_RECORD.get(name_of(path), [])
        assert found == allowed, f"{name_of(path)} changes the record: it is only ever added to"


def test_only_clock_and_ids_ask_for_the_time_and_for_randomness() -> None:
    asks = re.compile(r"datetime\.now\(|uuid4\(|uuid7\(|secrets\.token")
    for path in modules():
        if name_of(path) in ("clock.py", "ids.py", "config.py") or name_of(path).startswith("operations/local"):
            continue
        assert not asks.search(path.read_text()), f"{name_of(path)} should ask clock or ids"


def test_the_guard_sees_a_breach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A guard that cannot fail guards nothing: this one is shown a view that imports a model."""
    views = tmp_path / "auth" / "views.py"
    views.parent.mkdir()
    views.write_text(
        '"""Pages."""\nfrom capecontrol.auth.models import User\nfrom capecontrol.conversations import service\n'
    )
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    globals_before = globals()["PACKAGE"]
    globals()["PACKAGE"] = tmp_path
    try:
        assert len(breaches(views)) == 2
    finally:
        globals()["PACKAGE"] = globals_before
