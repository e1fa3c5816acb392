"""Guard: imports obey the house's table, and files keep the house's habits."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.guard

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "capecontrol"
FEATURES = ("conversations", "help", "auth", "audit", "mail")
"""In the order of imports: each may use those behind it."""

VIEW_FILES = {"views.py", "waiting_views.py", "api.py", "cli.py", "tasks.py"}
SHAPE_FILES = {"forms.py", "schemas.py"}
LONGEST_MODULE = 500
BOTTOM = {"extensions.py", "errors.py", "clock.py", "ids.py", "config.py", "server_config.py"}
REQUESTLESS = {"flask_mailman"}
"""Libraries named after Flask that a service may use: they know of no request."""

SAY_NOTHING = {"utils", "util", "helpers", "helper", "common", "misc", "base", "manager", "handler"}

# Files inside a feature that are neither services nor of a named role: they tell the request to the rest.
REQUEST_AWARE = {"auth/entering.py", "auth/identity.py", "auth/waiting_cookie.py", "audit/origin.py"}

# What a view may use of a feature that is not its own: who is signed in, and who acts from where.
DOORS = {"auth.identity", "audit.actor", "audit.devices", "audit.origin"}
# What web/ may use of the features: the marks of access, and the record of what no service is reached for.
DOORS_OF_WEB = {"auth.identity", "audit.events", "audit.recorder.record_refusal"}
# Parts of web/ that know nothing of a request, and are as good for a service as for a page.
PURE_WEB = {"web.pagination", "web.rendering", "web.text_rules"}
# What forms and schemas may use: rules that only look at a value. (Of passwords, the judgement and not the gate.)
RULES = PURE_WEB | {
    "web.openapi",
    "audit.query_language",
    "auth.email_addresses",
    "auth.passwords.problems",
    "auth.passwords.SHORTEST",
    "conversations.wording",
    "operations.readiness.State",
}

TIME = re.compile(
    r"datetime\.now\b|\butcnow\b|\bdate\.today\b|\btime\.(time|monotonic)(_ns)?\b"
    r"|from time import (?!perf_counter$|sleep$)"
)
"""Asking for the time. A stopwatch (`perf_counter`) tells nobody's time and is free to all."""

RANDOMNESS = re.compile(r"\buuid[1-8]\(|\bsecrets\.(token|rand|choice)|\brandom\.|\bos\.urandom\b")
CHANGES_THE_RECORD = re.compile(
    r"(delete\(AuditLog|update\(AuditLog|DELETE FROM audit_logs|UPDATE audit_logs)", re.IGNORECASE
)


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def imports(name: str, source: str) -> Iterator[str]:
    """Yield every imported name in full, relative ones too, leaving out what only type checkers read."""
    tree = ast.parse(source)
    skipped: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            skipped.update(child for statement in node.body for child in ast.walk(statement))
    folders = ["capecontrol", *name.split("/")[:-1]]
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = folders[: len(folders) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def is_among(target: str, names: set[str]) -> bool:
    """Say whether what is imported (without the package's name) is one of these, or something in one of them."""
    return any(target == name or target.startswith(f"{name}.") for name in names)


def is_service(name: str) -> bool:
    folder, _, file = name.rpartition("/")
    return (
        folder.split("/")[0] in FEATURES
        and file not in VIEW_FILES | SHAPE_FILES | {"models.py"}
        and name not in REQUEST_AWARE
    )


def breaches(name: str, source: str) -> list[str]:
    """Return what this file imports against the table in the house rules."""
    return [
        f"{name} imports {imported}: {reason}"
        for imported in imports(name, source)
        for reason in (
            *_breaches_of_role(name, imported),
            *_breaches_of_direction(name, imported),
        )
    ]


def _breaches_of_role(name: str, imported: str) -> Iterator[str]:
    """Yield what a file of this name must never import."""
    ours = imported.startswith("capecontrol.")
    target = imported.removeprefix("capecontrol.") if ours else ""
    folder, _, file = name.rpartition("/")
    feature = folder.split("/")[0]
    asks_database = imported.split(".")[0] == "sqlalchemy" or target == "extensions.db" or ".models" in target
    if name in BOTTOM:
        if ours:
            yield "the bottom imports nothing of ours"
    elif file in VIEW_FILES and feature in FEATURES:
        if asks_database:
            yield "let the service ask the database"
        if target.split(".")[0] in FEATURES and target.split(".")[0] != feature and not is_among(target, DOORS):
            yield "a view uses its own feature's services"
        if is_among(target, {"audit.recorder"}) and feature != "audit":
            yield "what happened is recorded from services"
    elif file in SHAPE_FILES:
        of_a_shape = target.split(".")[:1] == [feature] and target.split(".")[1:2] in (["forms"], ["schemas"])
        if asks_database or (ours and not of_a_shape and not is_among(target, RULES)):
            yield "shapes have no side effects, and use only rules"
    elif file == "models.py":
        if ours and not is_among(target, {"extensions", "clock", "ids"}):
            yield "models stand on extensions, clock and ids alone"
    elif is_service(name):
        if imported.split(".")[0].startswith("flask") and imported.split(".")[0] not in REQUESTLESS:
            yield "pass the value, not the request"
        if target.split(".")[0] in FEATURES and f"{target}.".split(".")[1] in ("views", "api", "cli", "tasks", "forms"):
            yield "a service does not know who asks it"
        if target.split(".")[0] == "web" and not is_among(target, PURE_WEB):
            yield "this part of web/ belongs to a request"
        if is_among(target, {"auth.entering", "auth.identity", "auth.waiting_cookie"}):
            yield "pass the actor, not the request"
        if is_among(target, {"config.current_settings"}):
            yield "pass the value, not where it is kept"
    elif f"{feature}.{file.removesuffix('.py')}" in PURE_WEB and (
        imported.split(".")[0].startswith("flask") or (ours and not is_among(target, {"errors", "clock", "ids"}))
    ):
        yield "this part of web/ knows nothing of a request"


def _breaches_of_direction(name: str, imported: str) -> Iterator[str]:
    """Yield why nothing in this file's folder may import this."""
    if not imported.startswith("capecontrol."):
        return
    target = imported.removeprefix("capecontrol.")
    folder, _, file = name.rpartition("/")
    mine, theirs = folder.split("/")[0], target.split(".")[0]
    if mine in FEATURES and theirs in FEATURES and FEATURES.index(theirs) < FEATURES.index(mine):
        is_door = file in ("views.py", "api.py") and is_among(target, {"auth.identity"})
        if not is_door:
            yield f"the direction is {' -> '.join(FEATURES)}"
    if mine == "web" and theirs in FEATURES and not is_among(target, DOORS_OF_WEB):
        yield "web/ is what the features share, and knows none of them"
    if theirs == "operations" and mine != "operations" and name != "__init__.py":
        yield "nobody imports operations"
    if target == "audit.recorder.record_refusal" and mine != "web" and name != "auth/identity.py":
        yield "refusals before any service are recorded by web/ and by identity"
    if target == "create_app" and name != "operations/worker.py":
        yield "only wsgi.py, the worker and tests import the factory"
    if not folder and name != "__init__.py" and theirs in (*FEATURES, "web"):
        yield "what stands beside the features is used by them"


def opening(source: str) -> str | None:
    """Return the first sentence of a module, or None where there is none."""
    first = (ast.get_docstring(ast.parse(source)) or "").split("\n\n")[0].replace("\n", " ")
    return first if first.endswith(".") else None


def says_nothing(name: str) -> bool:
    return bool(set(Path(name).with_suffix("").parts) & SAY_NOTHING)


def silent_lines(source: str) -> list[int]:
    """Return the lines that swallow an error in silence."""
    return [
        node.lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ExceptHandler)
        and all(isinstance(statement, ast.Pass) or ast.unparse(statement) == "..." for statement in node.body)
    ]


def unexplained(source: str) -> list[str]:
    """Return the public functions and classes of a module that do not say what they do."""
    return [
        node.name
        for node in ast.parse(source).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
    ]


def asks_by_itself(name: str, source: str) -> bool:
    """Say whether a module asks for the time or for randomness where it should ask clock or ids."""
    # The supervisor of `make run` and gunicorn's configuration run apart from the application.
    if name in ("clock.py", "ids.py", "config.py", "server_config.py") or name.startswith("operations/local"):
        return False
    return bool(TIME.search(source) or RANDOMNESS.search(source))


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_imports_go_one_way(path: Path) -> None:
    assert breaches(name_of(path), path.read_text()) == []


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_a_module_opens_with_one_sentence(path: Path) -> None:
    assert opening(path.read_text()), f"{name_of(path)} does not say in a sentence what it is"


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_a_module_is_named_for_what_it_knows(path: Path) -> None:
    assert not says_nothing(name_of(path)), f"rename {name_of(path)}: the name says nothing"


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_a_module_fits_in_the_head(path: Path) -> None:
    lines = len(path.read_text().splitlines())
    assert lines <= LONGEST_MODULE, f"{name_of(path)} has {lines} lines: split the idea"


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_nothing_is_swallowed_in_silence(path: Path) -> None:
    assert silent_lines(path.read_text()) == [], f"{name_of(path)} swallows errors in silence"


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_public_functions_say_what_they_do(path: Path) -> None:
    assert unexplained(path.read_text()) == [], f"give these in {name_of(path)} a sentence"


# The two that may, each in one place, and the trigger on the table holds both to it.
CHANGE_THE_RECORD = {"audit/erasure.py": ["UPDATE audit_logs"], "audit/retention.py": ["DELETE FROM audit_logs"]}


def test_no_code_updates_or_deletes_the_record() -> None:
    for path in modules():
        found = CHANGES_THE_RECORD.findall(path.read_text())
        allowed = CHANGE_THE_RECORD.get(name_of(path), [])
        assert found == allowed, f"{name_of(path)} changes the record: it is only ever added to"


def test_only_clock_and_ids_ask_for_the_time_and_for_randomness() -> None:
    for path in modules():
        assert not asks_by_itself(name_of(path), path.read_text()), f"{name_of(path)} should ask clock or ids"


def test_what_is_exempt_is_there_and_needs_it() -> None:
    """An exemption that outlives its reason lets anything in."""
    for name in REQUEST_AWARE:
        found = [imported for imported in imports(name, (PACKAGE / name).read_text()) if imported.startswith("flask")]
        assert found, f"{name} knows no request: take it off REQUEST_AWARE"
    for module in DOORS | DOORS_OF_WEB | RULES:
        parts = module.split(".")
        assert (PACKAGE / parts[0] / f"{parts[1]}.py").exists(), f"there is no {module}"


# A guard that cannot fail guards nothing: each is shown something it must not let pass.


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("auth/views.py", "from capecontrol.auth.models import User"),
        ("auth/api.py", "from capecontrol.extensions import db"),
        ("auth/views.py", "import sqlalchemy.orm"),
        ("auth/views.py", "from capecontrol.conversations import service"),
        ("conversations/views.py", "from capecontrol.auth.registration import register"),
        ("conversations/views.py", "from capecontrol.auth import registration"),
        ("conversations/views.py", "from ..auth import registration"),
        ("conversations/views.py", "import capecontrol.auth.sign_in as signing_in"),
        ("conversations/tasks.py", "from capecontrol.audit.recorder import record"),
        ("help/views.py", "from capecontrol.conversations import wording"),
        ("help/pages.py", "from capecontrol.conversations.assistants import guide"),
        ("auth/forms.py", "from capecontrol.auth import registration"),
        ("auth/forms.py", "from capecontrol.auth.passwords import hash_password"),
        ("auth/schemas.py", "from .models import User"),
        ("conversations/schemas.py", "from capecontrol.conversations import replies"),
        ("audit/schemas.py", "from capecontrol.web.rate_limits import caller"),
        ("auth/registration.py", "from flask import request"),
        ("auth/registration.py", "from capecontrol.auth.forms import RegisterForm"),
        ("auth/registration.py", "from capecontrol.auth.identity import signed_in"),
        ("auth/registration.py", "from capecontrol.config import current_settings"),
        ("auth/registration.py", "from capecontrol.web import rate_limits"),
        ("audit/recorder.py", "from flask_login import current_user"),
        ("conversations/events.py", "from flask import request"),
        ("conversations/assistants/guide.py", "from flask import request"),
        ("audit/queries.py", "from capecontrol.auth.models import User"),
        ("audit/api.py", "from capecontrol.audit.recorder import record_refusal"),
        ("auth/models.py", "from capecontrol.auth import passwords"),
        ("clock.py", "from capecontrol import ids"),
        ("database.py", "from capecontrol.auth.models import User"),
        ("web/template_filters.py", "from capecontrol.conversations import service"),
        ("web/rate_limits.py", "from capecontrol.audit.recorder import record"),
        ("web/text_rules.py", "from flask import request"),
        ("web/rendering.py", "from capecontrol.web import rate_limits"),
        ("web/landing.py", "from capecontrol.operations import health"),
        ("auth/cli.py", "from capecontrol import create_app"),
    ],
)
def test_the_guard_sees_a_breach(name: str, source: str) -> None:
    assert breaches(name, f'"""Words."""\n{source}\n')


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("conversations/views.py", "from capecontrol.auth.identity import signed_in"),
        ("audit/views.py", "from ..auth.identity import admin_required"),
        ("auth/forms.py", "from capecontrol.auth.passwords import problems"),
        ("auth/registration.py", "from capecontrol.audit.recorder import record"),
        ("conversations/models.py", "if TYPE_CHECKING:\n    from capecontrol.auth.models import User"),
        ("operations/doctor.py", "from capecontrol.auth.models import User"),
    ],
)
def test_the_guard_lets_pass_what_the_house_allows(name: str, source: str) -> None:
    assert breaches(name, source) == []


def test_the_guards_of_habits_see_a_breach() -> None:
    assert opening("import os") is None
    assert opening('"""Things"""') is None
    assert says_nothing("auth/helpers.py")
    assert says_nothing("utils/times.py")
    assert silent_lines("try:\n    run()\nexcept OSError:\n    pass") == [3]
    assert silent_lines("try:\n    run()\nexcept OSError:\n    ...") == [3]
    assert unexplained("def show(): ...\nasync def follow(): ...\nclass Page: ...\ndef _inner(): ...") == [
        "show",
        "follow",
        "Page",
    ]
    assert CHANGES_THE_RECORD.search("session.execute(delete(AuditLog).where(old))")
    assert CHANGES_THE_RECORD.search("text('delete from audit_logs')")


@pytest.mark.parametrize(
    "source",
    [
        "at = datetime.now(UTC)",
        "at = datetime.utcnow()",
        "at = date.today()",
        "at = time.time()",
        "at = time.time_ns()",
        "clock = time.monotonic",
        "from time import monotonic",
        "new = uuid4()",
        "new = secrets.token_urlsafe()",
        "new = random.random()",
    ],
)
def test_the_guard_sees_who_asks_by_himself(source: str) -> None:
    assert asks_by_itself("auth/sign_in.py", source)
    assert not asks_by_itself("clock.py", source)


def test_a_stopwatch_is_free_to_all() -> None:
    assert not asks_by_itself("database.py", "started = time.perf_counter()\ntime.sleep(0.3)")


def test_what_calls_itself_a_guard_is_run_by_make_check() -> None:
    for path in (ROOT / "tests").rglob("test_*.py"):
        text = path.read_text()
        is_called, is_marked = text.startswith('"""Guard: '), "\npytestmark = pytest.mark.guard\n" in text
        assert is_called == is_marked, f"{path.name} needs both `Guard:` in its first line and the mark, or neither"
    assert "pytest -q -m guard" in (ROOT / "Makefile").read_text()
