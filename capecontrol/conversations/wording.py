"""What may be said: the rules of messages, titles and reasons, and a title made from somebody's first words."""

import re

from capecontrol.web.text_rules import is_visible, many_lines, one_line

LONGEST_MESSAGE = 32_000
LONGEST_TITLE = 200
SHORTEST_REASON = 10
LONGEST_REASON = 500
UNTITLED = "New conversation"

_TITLE_LENGTH = 60
_SHORTEST_CUT = 20
_MARKDOWN_LEAD = re.compile(r"^(?:#{1,6}\s+|>\s*|[-*+]\s+|\d{1,9}[.)]\s+|`{3,}.*$)+")


def checked_message(text: str) -> str:
    """Return the message exactly as written. Raises ValueError with a sentence when it may not be said.

    1 to 32,000 characters, something visible among them, no control characters but tab and line breaks.
    """
    if not is_visible(text):
        raise ValueError("Write something first.")
    return many_lines(text, label="Your message", limit=LONGEST_MESSAGE)


def checked_title(text: str) -> str:
    """Return the title without surrounding space: one line of 1 to 200 characters. Raises ValueError."""
    title = one_line(text, label="The title", limit=LONGEST_TITLE)
    if not is_visible(title):
        raise ValueError("Give the conversation a title.")
    return title


def checked_reason(text: str) -> str:
    """Return why staff want to read a conversation, as one line. Raises ValueError.

    10 to 500 characters: a ticket's number and a word about it fit, a single "why" does not.
    """
    reason = one_line(" ".join(text.split()), label="The reason", limit=LONGEST_REASON)
    if not is_visible(reason):
        raise ValueError("Say why you need to read this conversation.")
    if len(reason) < SHORTEST_REASON:
        raise ValueError(f"Say why in a few words: at least {SHORTEST_REASON} characters.")
    return reason


def title_from(message: str) -> str:
    """Return the first words of a message as a title of about 60 characters, cut between words."""
    lines = (_MARKDOWN_LEAD.sub("", line.strip()) for line in message.splitlines())
    words = " ".join(next((line for line in lines if is_visible(line)), UNTITLED).split())
    if len(words) <= _TITLE_LENGTH:
        return words
    cut = words.rfind(" ", _SHORTEST_CUT, _TITLE_LENGTH + 1)
    kept = words[: cut if cut > 0 else _TITLE_LENGTH]
    return kept.rstrip(" ,;:.-\u200d\ufe0f") + "…"
