"""HTTP/1.1 messages from bytes and into bytes (RFC 9112), for the router simulator and the load generator.

Small instead of general, because it shares two cores with what it measures: no trailers, no upgrades.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto

MOST_HEAD_BYTES = 65_536

# RFC 9110 7.6.1: they speak of one connection and never travel on.
HOP_BY_HOP = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade")
)

_WITHOUT_BODY = frozenset((b"204", b"304"))


class MalformedMessage(ValueError):
    """The peer sent something that is not HTTP/1.1."""


class EndOfMessage:
    """What follows the last piece of a body."""


END = EndOfMessage()


@dataclass(slots=True)
class Head:
    """The first line, in its three parts, and the header lines with their names in lower case."""

    first: tuple[bytes, bytes, bytes]
    headers: list[tuple[bytes, bytes]]
    _first_values: dict[bytes, bytes] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self._first_values = dict(reversed(self.headers))

    def get(self, name: bytes) -> bytes | None:
        """Return the first value of a header, or None."""
        return self._first_values.get(name)

    @property
    def is_chunked(self) -> bool:
        """Whether the body comes in chunks."""
        coding = self.get(b"transfer-encoding")
        return coding is not None and coding.lower().rpartition(b",")[2].strip() == b"chunked"

    @property
    def length(self) -> int | None:
        """The body's length in bytes, when the head says it. Raises MalformedMessage."""
        text = self.get(b"content-length")
        if text is None or self.is_chunked:
            return None
        if not text.isdigit():
            raise MalformedMessage(f"Content-Length {text!r}")
        return int(text)

    @property
    def asks_to_close(self) -> bool:
        """Whether the connection ends with this message."""
        options = (self.get(b"connection") or b"").lower()
        return b"close" in options or (b"HTTP/1.0" in self.first and b"keep-alive" not in options)


class _Reading(Enum):
    HEAD = auto()
    COUNTED = auto()
    CHUNK_SIZE = auto()
    CHUNK = auto()
    CHUNK_END = auto()
    LAST_LINES = auto()
    UNTIL_CLOSE = auto()
    FINISHED = auto()


class Receiver:
    """One direction of a connection: takes bytes, gives heads, pieces of bodies and ends."""

    def __init__(self, *, of_requests: bool) -> None:
        self._of_requests = of_requests
        self._buffer = bytearray()
        self._is_closed = False
        self._answers_head = False
        self._state = _Reading.HEAD
        self._left = 0

    def expect_answer_to(self, method: bytes) -> None:
        """Say which request the next answer is for: one to HEAD has no body whatever its length says."""
        self._answers_head = method == b"HEAD"

    def feed(self, data: bytes) -> None:
        """Take what arrived; nothing at all means that the peer has closed."""
        if data:
            self._buffer += data
        else:
            self._is_closed = True

    @property
    def is_between_messages(self) -> bool:
        """Whether nothing of a next message has arrived."""
        return self._state is _Reading.HEAD and not self._buffer

    def take(self) -> Head | bytes | EndOfMessage | None:
        """Return the next part, or None when more bytes are needed. Raises MalformedMessage, EOFError."""
        match self._state:
            case _Reading.HEAD:
                return self._take_head()
            case _Reading.FINISHED:
                self._state = _Reading.HEAD
                return END
            case _Reading.COUNTED:
                return self._take_counted(then=_Reading.FINISHED)
            case _Reading.CHUNK:
                return self._take_counted(then=_Reading.CHUNK_END)
            case _Reading.CHUNK_SIZE:
                return self._take_chunk_size()
            case _Reading.CHUNK_END | _Reading.LAST_LINES:
                return self._take_line_end()
            case _Reading.UNTIL_CLOSE:
                return self._take_until_close()

    def _take_head(self) -> Head | None:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > MOST_HEAD_BYTES:
                raise MalformedMessage("a head without an end")
            self._must_be_open()
            return None
        head = _parse_head(bytes(self._buffer[:end]))
        del self._buffer[: end + 4]
        self._state = self._body_of(head)
        return head

    def _body_of(self, head: Head) -> _Reading:
        if not self._of_requests:
            status = head.first[1]
            if status[:1] == b"1":
                return _Reading.HEAD
            if self._answers_head or status in _WITHOUT_BODY:
                return _Reading.FINISHED
        if head.is_chunked:
            return _Reading.CHUNK_SIZE
        length = head.length
        if length is None:
            return _Reading.FINISHED if self._of_requests else _Reading.UNTIL_CLOSE
        self._left = length
        return _Reading.COUNTED if length else _Reading.FINISHED

    def _take_counted(self, *, then: _Reading) -> bytes | EndOfMessage | None:
        if not self._buffer:
            self._must_be_open()
            return None
        piece = bytes(self._buffer[: self._left])
        del self._buffer[: self._left]
        self._left -= len(piece)
        if not self._left:
            self._state = then
        return piece

    def _take_chunk_size(self) -> Head | bytes | EndOfMessage | None:
        line = self._line()
        if line is None:
            self._must_be_open()
            return None
        try:
            self._left = int(line.partition(b";")[0], 16)
        except ValueError:
            raise MalformedMessage(f"a chunk of size {line!r}") from None
        self._state = _Reading.CHUNK if self._left else _Reading.LAST_LINES
        return self.take()

    def _take_line_end(self) -> Head | bytes | EndOfMessage | None:
        line = self._line()
        if line is None:
            self._must_be_open()
            return None
        if self._state is _Reading.CHUNK_END:
            if line:
                raise MalformedMessage("a chunk longer than its size")
            self._state = _Reading.CHUNK_SIZE
        elif not line:
            self._state = _Reading.FINISHED
        return self.take()

    def _take_until_close(self) -> bytes | EndOfMessage | None:
        if self._buffer:
            piece = bytes(self._buffer)
            self._buffer.clear()
            return piece
        if not self._is_closed:
            return None
        self._state = _Reading.HEAD
        return END

    def _line(self) -> bytes | None:
        end = self._buffer.find(b"\r\n")
        if end < 0:
            return None
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        return line

    def _must_be_open(self) -> None:
        if self._is_closed:
            raise EOFError


def head_bytes(first: bytes, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return a head as it goes over the wire."""
    return b"\r\n".join((first, *(name + b": " + value for name, value in headers), b"", b""))


def chunk(piece: bytes) -> bytes:
    """Return a piece of a body as a chunk; an empty one ends the body."""
    return b"%x\r\n%b\r\n" % (len(piece), piece)


def request_bytes(
    method: str, path: str, *, host: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
) -> bytes:
    """Return a whole request as it goes over the wire, ready to be sent any number of times."""
    lines = [("Host", host), *(headers or {}).items()]
    if body is not None:
        lines.append(("Content-Length", str(len(body))))
    head = head_bytes(f"{method} {path} HTTP/1.1".encode(), ((n.encode(), v.encode()) for n, v in lines))
    return head + (body or b"")


def _parse_head(raw: bytes) -> Head:
    first, *lines = raw.split(b"\r\n")
    parts = first.split(b" ", 2)
    if len(parts) == 2 and parts[0].startswith(b"HTTP/"):
        parts.append(b"")  # a status line may end without a reason
    if len(parts) != 3 or b"HTTP/1." not in (parts[0][:7], parts[2][:7]):
        raise MalformedMessage(f"a first line {first[:80]!r}")
    headers = []
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or not name or name != name.strip():
            raise MalformedMessage(f"a header line {line[:80]!r}")
        headers.append((name.lower(), value.strip()))
    return Head((parts[0], parts[1], parts[2]), headers)
