"""Where events wait that the audit table would not take: a file per process, flushed to the disk before the answer.

A line is an event as JSON. Whoever writes and whoever replays take `flock`; a replay renames the file first, and a
writer that finds its file renamed opens a new one. What no disk takes waits in memory, where there is room for some.
"""

import fcntl
import hashlib
import os
import re
import stat
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

import structlog
from prometheus_client import Counter

from capecontrol import ids

PREFIX = "AUDIT_SPILL "
"""What a line on standard error begins with; the rest is the line as the spool has it."""

MOST_IN_MEMORY = 2_000
"""Lines that wait in memory: some 2 MB."""

WRITTEN, CLAIMED, BAD = ".spool", ".replaying", ".bad"
_UNKNOWN = "unknown"
_UNFINISHED = ".unfinished"

log = structlog.get_logger("audit")

unprinted_total = Counter(
    "capecontrol_audit_unprinted_total", "Swallowed audit events that standard error did not take either."
)
unspooled_total = Counter(
    "capecontrol_audit_unspooled_total", "Swallowed audit events that the spool's disk did not take."
)
dropped_total = Counter(
    "capecontrol_audit_dropped_total", "Swallowed audit events that there was no room for in memory either."
)


class Spool:
    """The spool of one process in a folder that others may share; its threads share it."""

    def __init__(self, folder: Path) -> None:
        """Name the folder; it is made when the first event comes."""
        self.folder = folder
        self._gathering = threading.Lock()
        self._writing = threading.Lock()
        self._batch = _Batch()
        self._file: _OpenFile | None = None

    def append(self, lines: Sequence[str], installation: str | None) -> None:
        """Put lines on the disk, all or none. Raises OSError.

        Threads that come while one writes are written together by the next of them: one flush for all.
        """
        with self._gathering:
            batch = self._batch
            batch.lines.extend(lines)
        with self._writing:
            if not batch.is_done:
                with self._gathering:
                    self._batch = _Batch()
                try:
                    self._write("".join(f"{line}\n" for line in batch.lines).encode(), installation)
                except OSError as failure:
                    batch.failure = failure
                batch.is_done = True
        if batch.failure is not None:
            raise OSError(batch.failure.errno, "the spool's disk takes nothing") from batch.failure

    def leave(self, lines: Sequence[str], installation: str | None) -> None:
        """Put lines into a file of their own, complete or not at all, to be replayed another time. Raises OSError."""
        self._put(self.folder / _name(installation), lines)

    def lay_aside(self, lines: Sequence[str], claimed: Path) -> Path:
        """Put lines of a claimed file that nobody could read beside it, for somebody to look at. Raises OSError."""
        path = claimed.with_suffix(BAD)
        self._put(path, lines)
        return path

    def waiting(self, installation: str) -> list[Path]:
        """Return the files that wait for this installation, oldest first: also those nobody could name one for."""
        ours = (_part(installation), _UNKNOWN)
        return [path for path in self._files(WRITTEN, CLAIMED) if path.name.partition(".")[0] in ours]

    def backlog(self, installation: str | None) -> list["Waiting"]:
        """Return what waits for this installation; whatever waits, while nobody knows which one this is."""
        paths = self._files(WRITTEN, CLAIMED) if installation is None else self.waiting(installation)
        found = []
        for path in paths:
            with suppress(FileNotFoundError):  # stored at this moment
                status = path.stat()
                if status.st_size:
                    found.append(Waiting(status.st_size, datetime.fromtimestamp(status.st_mtime, UTC)))
        return found

    def foreign(self, installation: str) -> list[Path]:
        """Return the files that wait for other installations."""
        ours = (_part(installation), _UNKNOWN)
        return [path for path in self._files(WRITTEN, CLAIMED) if path.name.partition(".")[0] not in ours]

    def set_aside(self) -> list[Path]:
        """Return the files of lines that nobody could read."""
        return self._files(BAD)

    @contextmanager
    def claim(self, path: Path) -> Iterator[IO[bytes] | None]:
        """Yield a waiting file that nobody writes to or replays any more, or None where somebody else has it."""
        claimed = path.with_suffix(CLAIMED)
        is_renamed = path != claimed
        try:
            if is_renamed:
                path.rename(claimed)
            file = claimed.open("rb")
        except FileNotFoundError:
            yield None
            return
        with file:
            # A writer holds the lock for as long as a flush takes; another replay, until it is done.
            try:
                fcntl.flock(file, fcntl.LOCK_EX if is_renamed else fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield None
                return
            yield file if os.fstat(file.fileno()).st_nlink else None

    def close(self) -> None:
        """Let go of this process's file; the next event opens another one."""
        with self._writing:
            if self._file is not None:
                self._file.close()
                self._file = None

    def problem(self) -> str | None:
        """Return in a sentence why the folder cannot take events, or None where it should be able to."""
        try:
            self._have_folder()
        except OSError as failure:
            return f"{self.folder} cannot be written ({failure.strerror}): see AUDIT_SPOOL_DIR."
        return None if os.access(self.folder, os.W_OK | os.X_OK) else f"{self.folder} cannot be written."

    def _put(self, path: Path, lines: Sequence[str]) -> None:
        unfinished = path.with_suffix(_UNFINISHED)
        unfinished.unlink(missing_ok=True)  # of a replay that was killed; whoever has claimed a file is the only one
        try:
            with _create(unfinished) as file:
                _write_all(file.fileno(), "".join(f"{line}\n" for line in lines).encode())
                os.fsync(file.fileno())
            unfinished.rename(path)
        finally:
            unfinished.unlink(missing_ok=True)
        _sync_folder(self.folder)

    def _files(self, *suffixes: str) -> list[Path]:
        try:
            found = [path for path in self.folder.iterdir() if path.suffix in suffixes]
        except OSError:
            return []
        return sorted(found, key=lambda path: path.name.partition(".")[2])

    def _write(self, data: bytes, installation: str | None) -> None:
        while True:
            file = self._open(installation)
            if file.lock():
                try:
                    file.append(data)
                finally:
                    fcntl.flock(file.fd, fcntl.LOCK_UN)
                return
            file.close()
            self._file = None

    def _open(self, installation: str | None) -> "_OpenFile":
        """Return this process's file; a new one after a fork, and once the installation is known."""
        part = _part(installation)
        if self._file is not None and (self._file.process, self._file.part) != (os.getpid(), part):
            self._file.close()
            self._file = None
        if self._file is None:
            self._have_folder()
            self._file = _OpenFile(self.folder / _name(installation), part)
        return self._file

    def _have_folder(self) -> None:
        """Make the folder, and refuse one that somebody else could have put events into. Raises OSError."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = self.folder.lstat()
        is_safe = stat.S_ISDIR(found.st_mode) and found.st_uid in (0, os.geteuid()) and not found.st_mode & 0o022
        if not is_safe:
            raise PermissionError(1, "others may write there", str(self.folder))


@dataclass(frozen=True, slots=True)
class Waiting:
    """A file that waits: its size in bytes, and when it was last written to."""

    size: int
    since: datetime


@dataclass(slots=True)
class _Batch:
    """Lines that are written together, and what came of it."""

    lines: list[str] = field(default_factory=list)
    is_done: bool = False
    failure: OSError | None = None


class _OpenFile:
    """The file a process appends to."""

    def __init__(self, path: Path, part: str) -> None:
        self.path = path
        self.part = part
        self.process = os.getpid()
        self._file = _create(path)
        self.fd = self._file.fileno()
        self._is_torn = False
        _sync_folder(path.parent)

    def lock(self) -> bool:
        """Lock it, and say whether it is still the writer's: one that a replay has taken is not waited for."""
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return os.path.samestat(self.path.stat(), os.fstat(self.fd))
        except (BlockingIOError, FileNotFoundError):
            return False

    def append(self, data: bytes) -> None:
        """Write and flush to the disk; what was written of it in vain is taken away again. Raises OSError."""
        size = os.fstat(self.fd).st_size
        try:
            _write_all(self.fd, b"\n" + data if self._is_torn else data)
            os.fsync(self.fd)
        except OSError:
            self._is_torn = True
            with suppress(OSError):  # half a line is told from a whole one
                os.ftruncate(self.fd, size)
            raise

    def close(self) -> None:
        self._file.close()


class Memory:
    """Lines that no disk holds, in one process; some 2,000 of them and no more."""

    def __init__(self) -> None:
        """Begin empty."""
        self._lock = threading.Lock()
        self._lines: list[str] = []
        self._dropped = 0

    def __len__(self) -> int:
        return len(self._lines)

    def add(self, lines: Sequence[str]) -> None:
        """Keep lines as long as there is room, and count those there is none for."""
        with self._lock:
            kept = lines[: MOST_IN_MEMORY - len(self._lines)]
            self._lines.extend(kept)
            dropped = len(lines) - len(kept)
            self._dropped += dropped
        dropped_total.inc(dropped)

    def take(self) -> list[str]:
        """Take all of them; whoever cannot store one adds it again."""
        with self._lock:
            taken, self._lines = self._lines, []
        return taken

    def take_dropped(self) -> int:
        """Return how many were dropped since the last time."""
        with self._lock:
            taken, self._dropped = self._dropped, 0
        return taken

    def put_back_dropped(self, count: int) -> None:
        """Keep a count that could not be recorded."""
        with self._lock:
            self._dropped += count


spool = Spool(Path(os.devnull))
memory = Memory()


def configure(folder: str, *, is_lost_at_restart: bool) -> None:
    """Use this folder from now on. One whose disk is lost at a restart is said to be: there, the log is what stays."""
    global spool, memory
    spool.close()
    spool, memory = Spool(Path(folder)), Memory()
    if is_lost_at_restart:
        log.warning(
            "audit_spool_is_ephemeral",
            folder=folder,
            note="this disk is lost at a restart: keep AUDIT_SPILL lines with a log drain, for `flask audit replay`",
        )


def print_line(line: str) -> None:
    """Write a line to standard error. A full disk behind it must not undo what the person did; it is counted."""
    try:
        sys.stderr.write(f"{PREFIX}{line}\n")
        sys.stderr.flush()
    except OSError:
        unprinted_total.inc()


def _name(installation: str | None) -> str:
    return f"{_part(installation)}.{ids.new_id()}{WRITTEN}"


def _part(installation: str | None) -> str:
    """Return what a file's name says about the installation: nothing a line could smuggle a path into."""
    if installation is None:
        return _UNKNOWN
    if re.fullmatch(r"[0-9a-f-]{36}", installation):
        return installation
    return hashlib.sha256(installation.encode("utf-8", "surrogatepass")).hexdigest()[:36]


def _create(path: Path) -> IO[bytes]:
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    return os.fdopen(fd, "ab", buffering=0)


def _write_all(fd: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(fd, left) :]


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
