"""What may be said, and how a title is made from first words."""

import re

import pytest

from capecontrol.conversations import wording

FAMILY = "👨‍👩‍👧‍👦"

EXACT = [
    "x",
    "  spaces stay  \n",
    "a\tb\nc",
    "a\r\nb",
    f"{FAMILY} 🦭 Zoë ﷽",
    "'; DROP TABLE conversations; --",
    "<script>alert('x')</script> & &amp;",
    "right-to-left: שלום مرحبا",
    "\u200bzero width, and visible",
    "x" * 32_000,
    "🦭" * 32_000,
]
REFUSED = {
    "": "Write something first.",
    "   \n\t ": "Write something first.",
    "\u200b\u2060\ufeff": "Write something first.",
    "\u3000\u00a0": "Write something first.",
    "\u3164\u2800\ufe0f": "Write something first.",
    "a\x00b": "Your message must not contain control characters.",
    "a\x1b[31mb": "Your message must not contain control characters.",
    "a\rb": "Your message must not contain control characters.",
    "a\x85b": "Your message must not contain control characters.",
    "a\x7fb": "Your message must not contain control characters.",
    "a\ud800b": "Your message must not contain control characters.",
    "x" * 32_001: "Your message is too long: at most 32,000 characters, and this has 32,001.",
}
TITLES = {
    "How do I rename a conversation?": "How do I rename a conversation?",
    "\n\n  First line  \nsecond": "First line",
    "# A heading\ntext": "A heading",
    "> - quoted item": "quoted item",
    "1. one": "one",
    "```python\nprint()\n```": "print()",
    "a  b\tc": "a b c",
    "word " * 40: "word word word word word word word word word word word word…",
    "x" * 100: "x" * 60 + "…",
    "<b>bold</b>": "<b>bold</b>",
    "-": "-",
    "# ": "#",
}


@pytest.mark.parametrize("text", EXACT)
def test_what_may_be_said_is_kept_exactly(text: str) -> None:
    assert wording.checked_message(text) == text


@pytest.mark.parametrize("text", REFUSED)
def test_what_may_not_be_said_is_refused_in_words(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(REFUSED[text])):
        wording.checked_message(text)


@pytest.mark.parametrize("message", TITLES)
def test_a_title_comes_from_the_first_words(message: str) -> None:
    assert wording.title_from(message) == TITLES[message]


@pytest.mark.parametrize("message", [text for text in EXACT if text.strip()])
def test_a_title_made_from_words_is_one_that_could_have_been_written(message: str) -> None:
    assert wording.checked_title(wording.title_from(message))


@pytest.mark.parametrize("title", ["", "  ", "a\nb", "a\x00", "\u200b", "x" * 201])
def test_a_title_is_one_visible_line_of_200_characters(title: str) -> None:
    with pytest.raises(ValueError, match="title"):
        wording.checked_title(title)


def test_a_title_loses_only_the_space_around_it() -> None:
    assert wording.checked_title("  March,  tiles 🧱 ") == "March,  tiles 🧱"
