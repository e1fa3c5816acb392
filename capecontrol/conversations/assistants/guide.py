"""The Guide: looks a question up in the help pages and quotes them; it never writes a sentence about the product.

Which sections fit a question the library finds (library.py), over the sections passed in, so no table has to be filled
or kept fresh. Where none fits well enough, the Guide says so.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import Connection
from sqlalchemy.orm import Session

from capecontrol.conversations.assistants import vocabulary
from capecontrol.conversations.assistants.library import library_of
from capecontrol.help.pages import Section

INTRODUCTION = "I look things up in this product's help pages. No AI model is connected."

MOST_QUOTATIONS = 3

# Characters: what is longer is a text rather than a question, and its beginning has to do.
_LONGEST_QUESTION = 1000
_LONGEST_QUOTATION = 480

# Settled by measuring: tests/help/questions.py holds the questions, tests/conversations/test_guide.py the measure.
_EACH_WORD, _MOST_WORDS = 0.14, 5  # what every word found adds to the confidence, and up to how many
_CONFIDENT = 0.67
_WORTH_QUOTING = 0.6  # of the best section's score

_FENCE = "```"
_SENTENCE_END = re.compile(r"[.!?](?=\s)")

_GREETINGS = frozenset(
    re.findall(
        r"\w+",
        "hi hello hey hallo hola howzit good day morning afternoon evening there you guide greetings yo bonjour "
        "salut ciao molo molweni sawubona sanibonani dumela goeie more môre middag naand dag how are is it going",
    )
)
_THANKS = frozenset(
    re.findall(
        r"\w+",
        "thanks thank thankyou thx ty you so very much a lot many great ok okay perfect good cool nice super helpful "
        "that was it is this dankie baie enkosi ngiyabonga merci danke gracias cheers",
    )
)
_FAREWELLS = frozenset(re.findall(r"\w+", "bye goodbye good night see you later tomorrow ciao cheers totsiens"))
_THANKING = frozenset(re.findall(r"\w+", "thanks thank thankyou thx ty dankie enkosi ngiyabonga merci danke gracias"))
_LEAVING = frozenset(re.findall(r"\w+", "bye goodbye totsiens later night"))
_ABOUT_ME = frozenset(
    re.findall(r"\w+", "who what are can could will do does did you your name is s this work how help me please guide")
)
_GREETING = _GREETINGS - frozenset(re.findall(r"\w+", "good there you guide how are is it going more dag"))

_HELLO = (
    "Hello, I am the Guide. Ask me in a few words how something works here, and I quote the parts of the help that "
    "fit: for example *how do I rename a conversation?* or *who can read my conversations?* "
    "You can also look through [all help topics](/help)."
)
_WELCOME = "You are welcome. What you wrote here is kept, and you can ask again whenever you like."
_GOODBYE = "Goodbye. This conversation is kept, and you find it again in your list."
_NO_QUESTION = (
    "I could not find a question in that. Ask me in a few words how something works here, for example "
    "*how do I rename a conversation?*, or look through [all help topics](/help). What you wrote is kept all the same."
)
_DECLINED = (
    "I found nothing in the help that answers this, and I do not guess. What you can do now:\n\n"
    "- Ask again in a few English words, and name the thing as the page names it.\n"
    "- Look through [all help topics](/help).\n"
    "- Go on writing here. This conversation is kept, so it can hold your notes.\n\n"
    "I know the help of this product and nothing else. Other questions would need an AI model, which cannot be "
    "connected in this release; it is planned that the people who run this installation can connect one in a later "
    "release."
)
_CLOSEST = "This part of the help is closest to your question:"
_CLOSEST_ONES = "These parts of the help are closest to your question:"
_NOT_WHAT_YOU_MEANT = "Not what you meant? Ask again in other words, or look through [all help topics](/help)."


@dataclass(frozen=True, slots=True)
class Quotation:
    """A passage of the help, word for word, and the section it stands in."""

    section: Section
    markdown: str

    @property
    def is_whole(self) -> bool:
        """Whether nothing of the section was left out."""
        return self.markdown == self.section.markdown


@dataclass(frozen=True, slots=True)
class GuideAnswer:
    """What the Guide says: `text` is markdown and begins by saying what the Guide is."""

    kind: Literal["quotations", "declined", "courtesy"]
    text: str
    quotations: tuple[Quotation, ...] = ()


def answer(connection: Connection | Session, question: str, sections: Sequence[Section]) -> GuideAnswer:
    """Answer a question with up to three quotations from the sections, or decline.

    Takes any text, also none. Reads through the caller's connection or session and writes nothing; the database's
    own errors rise as they are.
    """
    question = question[:_LONGEST_QUESTION]
    courtesy = _courtesy(question)
    if courtesy:
        return GuideAnswer("courtesy", _joined(INTRODUCTION, courtesy))
    found = find_sections(connection, question, sections)
    if not found:
        return GuideAnswer("declined", _joined(INTRODUCTION, _DECLINED))
    quotations = tuple(Quotation(section, excerpt(section.markdown)) for section in found)
    lead = _CLOSEST if len(quotations) == 1 else _CLOSEST_ONES
    return GuideAnswer(
        "quotations",
        _joined(INTRODUCTION, lead, *(_quoted(quotation) for quotation in quotations), _NOT_WHAT_YOU_MEANT),
        quotations,
    )


def find_sections(connection: Connection | Session, question: str, sections: Sequence[Section]) -> tuple[Section, ...]:
    """Return the sections that answer the question, best first; none when none is good enough."""
    library = library_of(connection, sections)
    found = library.rank(connection, vocabulary.asked_words(question, library.words), most=MOST_QUOTATIONS)
    if not found:
        return ()
    best = found[0].score
    confidence = best + _EACH_WORD * min(_MOST_WORDS, max(one.words for one in found))
    if confidence < _CONFIDENT:
        return ()
    return tuple(sections[one.section] for one in found if one.score >= _WORTH_QUOTING * best)


def excerpt(markdown: str) -> str:
    """Return the beginning of a section's text, word for word, ended after a paragraph or else a sentence."""
    blocks = _blocks(markdown)
    end = blocks[0]
    for block_end in blocks[1:]:
        # What ends with a colon announces the next block and is not quoted without it.
        if block_end > _LONGEST_QUOTATION and not markdown[:end].endswith(":"):
            break
        end = block_end
    quoted = markdown[:end]
    if len(quoted) > _LONGEST_QUOTATION and _FENCE not in quoted:
        ends = [match.end() for match in _SENTENCE_END.finditer(quoted, 0, _LONGEST_QUOTATION)]
        whole = [position for position in ends if _is_closed(quoted[:position])]
        quoted = quoted[: whole[-1]] if whole else quoted
    return quoted


def _courtesy(question: str) -> str | None:
    """Return the fixed reply to a message that only greets, thanks, takes leave, or holds no word of any weight."""
    words = frozenset(re.findall(r"[^\W_]+", question.casefold()))
    if words & _THANKING and words <= _THANKS | _GREETINGS:
        return _WELCOME
    if words & _LEAVING and words <= _FAREWELLS | _THANKS:
        return _GOODBYE
    if (words & _GREETING and words <= _GREETINGS) or (words & {"you", "your", "help"} and words <= _ABOUT_ME):
        return _HELLO
    if not vocabulary.carries_meaning(question):
        return _NO_QUESTION
    return None


def _blocks(markdown: str) -> list[int]:
    """Return where each paragraph, list or block of code ends; a block of code is never divided."""
    ends = []
    position = 0
    in_code = False
    for line in markdown.splitlines(keepends=True):
        if line.startswith(_FENCE):
            in_code = not in_code
        elif not line.strip() and not in_code:
            ends.append(len(markdown[:position].rstrip()))
        position += len(line)
    return [*ends, len(markdown)]


def _is_closed(markdown: str) -> bool:
    """Whether no code, emphasis or link is left open at the end."""
    return (
        markdown.count("`") % 2 == 0
        and markdown.count("**") % 2 == 0
        and all(markdown.count(opening) == markdown.count(closing) for opening, closing in ("[]", "()"))
    )


def _quoted(quotation: Quotation) -> str:
    section = quotation.section
    lines = "\n".join(f"> {line}".rstrip() for line in quotation.markdown.splitlines())
    heading = f"**[{section.title}]({section.path})**\n\n{lines}"
    return heading if quotation.is_whole else f"{heading}\n\n[Read on]({section.path})"


def _joined(*paragraphs: str) -> str:
    return "\n\n".join(paragraphs)
