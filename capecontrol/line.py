"""The line in which registrations stand before they begin (decision 018), as the application sees it: the server lets a
few begin at a time, and each says when the next may."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_let_next: ContextVar[Callable[[], object] | None] = ContextVar("let_next", default=None)


@contextmanager
def standing_in_it(let_next: Callable[[], object] | None) -> Iterator[None]:
    """Do the enclosed work as one who stood in line; `let_next` lets the next begin, None where there is no line."""
    before = _let_next.set(let_next)
    try:
        yield
    finally:
        _let_next.reset(before)


def let_next_begin() -> None:
    """Say that this thread's work waits from here on, for something else than a processor of its own."""
    let_next = _let_next.get()
    if let_next is not None:
        let_next()
