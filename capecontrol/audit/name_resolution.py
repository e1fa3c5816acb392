"""A host's addresses within a limit: the system's resolver has none of ours, and whoever asks it waits as long as it
likes."""

import socket
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

Address = tuple[socket.AddressFamily, socket.SocketKind, int, str, Any]
_Name = tuple[str, int]

_asked: dict[_Name, Future[Sequence[Address]]] = {}
_lock = threading.Lock()


class NameNotResolved(OSError):
    """The resolver has not answered in time; it may still be at it."""


def addresses_of(host: str, port: int, *, seconds: float) -> Sequence[Address]:
    """Return where a stream to the host may go, as `getaddrinfo` does. Raises OSError, NameNotResolved after so many
    seconds, and UnicodeError for what can be no name.

    A question that hangs cannot be taken back: its thread stays until the resolver gives up, and whoever asks the same
    meanwhile waits for that one's answer, so that a name costs one thread however often it is tried.
    """
    name = (host, port)
    with _lock:
        answer = _asked.get(name)
        if answer is None:
            answer = Future()
            threading.Thread(target=_ask, args=(name, answer), name="resolver", daemon=True).start()
            _asked[name] = answer
    try:
        return answer.result(seconds)
    except TimeoutError:
        raise NameNotResolved(0, "its name was not resolved in time") from None


def _ask(name: _Name, answer: Future[Sequence[Address]]) -> None:
    try:
        found = socket.getaddrinfo(*name, type=socket.SOCK_STREAM)
    except BaseException as error:  # noqa: BLE001 - whoever waits is told, whatever it was
        _forget(name)
        answer.set_exception(error)
    else:
        _forget(name)
        answer.set_result(found)


def _forget(name: _Name) -> None:
    """Let the next one ask anew; before the answer is given, so that whoever has it does not meet it again."""
    with _lock:
        del _asked[name]
