"""The Guide: looks a question up in the help pages and quotes them; it never writes a sentence about the product.

Finding is PostgreSQL's full-text search (its `english` configuration stems and drops stop words) over the sections
passed in, so no table has to be filled or kept fresh. A section is as good as the rarity of the question's words it
holds, and a heading or a question people ask counts for more than running text. Words that the help does not know
at all count against every section: they are what tells "how do I delete my account" from the same question about
another company's product.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from sqlalchemy import Connection, text
from sqlalchemy.orm import Session

from capecontrol.conversations.assistants import vocabulary
from capecontrol.help.pages import Section

INTRODUCTION = "I look things up in this product's help pages. No AI model is connected."

MOST_QUOTATIONS = 3

# Characters: what is longer is a text rather than a question, and its beginning has to do.
_LONGEST_QUESTION = 1000
_LONGEST_QUOTATION = 480

# Settled by measuring: tests/help/questions.py holds the questions, tests/conversations/test_guide.py the measure.
_STRENGTH_IN_TEXT = 0.6  # of a word in the running text; in a heading or an asked question it is 1
_UNKNOWN = 1.4  # how much more than the rarest known word a word unknown to the help weighs
_COVERAGE, _LIKENESS = 0.7, 0.3  # how much of the question is found; how like one heading or asked question it is
_EACH_WORD, _MOST_WORDS = 0.14, 5  # what every word found adds to the confidence, and up to how many
_CONFIDENT = 0.67
_WORTH_QUOTING = 0.6  # of the best section's score

_RANK = text(
    """
    WITH phrase AS (
        SELECT section, in_text, number, to_tsvector('english', words) AS lexemes
        FROM ROWS FROM (jsonb_to_recordset(CAST(:phrases AS jsonb)) AS (section int, in_text bool, words text))
             WITH ORDINALITY AS entry (section, in_text, words, number)
    ), same_meaning AS (
        SELECT DISTINCT ON (lexeme) lexeme, meaning
        FROM jsonb_each_text(CAST(:same_meaning AS jsonb)) AS entry (word, stands_for)
        CROSS JOIN LATERAL (SELECT (ts_lexize('english_stem', word))[1] AS lexeme,
                                   (ts_lexize('english_stem', stands_for))[1] AS meaning) AS stems
        WHERE lexeme IS NOT NULL
        ORDER BY lexeme, meaning
    ), held AS (
        SELECT DISTINCT section, in_text, number, coalesce(meaning, lexeme) AS word
        FROM phrase CROSS JOIN LATERAL unnest(lexemes) LEFT JOIN same_meaning USING (lexeme)
    ), rarity AS (
        SELECT word, ln(1 + (:sections - count(DISTINCT section) + 0.5) / (count(DISTINCT section) + 0.5)) AS weight
        FROM held GROUP BY word
    ), asked AS (
        SELECT word, coalesce(weight, :unknown * ln(1 + (:sections + 0.5) / 0.5)) AS weight
        FROM (SELECT DISTINCT coalesce(meaning, lexeme) AS word
              FROM unnest(to_tsvector('english', :question)) LEFT JOIN same_meaning USING (lexeme)) AS terms
        LEFT JOIN rarity USING (word)
    ), whole AS (
        SELECT sum(weight) AS weight FROM asked
    ), coverage AS (
        SELECT section, sum(weight * strength) AS weight, count(*) AS words
        FROM (SELECT section, word, weight, max(CASE WHEN in_text THEN :strength_in_text ELSE 1 END) AS strength
              FROM held JOIN asked USING (word) GROUP BY section, word, weight) AS found
        GROUP BY section
    ), likeness AS (
        SELECT section, max(common / sqrt(length)) AS weight
        FROM (SELECT section, number, sum(rarity.weight) AS length, coalesce(sum(asked.weight), 0) AS common
              FROM held JOIN rarity USING (word) LEFT JOIN asked USING (word)
              WHERE NOT in_text GROUP BY section, number) AS one
        GROUP BY section
    )
    SELECT section,
           :coverage * coverage.weight / whole.weight + :likeness * likeness.weight / sqrt(whole.weight) AS score,
           words
    FROM coverage JOIN likeness USING (section) CROSS JOIN whole
    ORDER BY score DESC, section
    LIMIT :most
    """
)

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
    library = _library(tuple(sections))
    rows = connection.execute(
        _RANK,
        {
            "phrases": library.phrases,
            "sections": len(sections),
            "same_meaning": _SAME_MEANING,
            "question": vocabulary.asked_words(question, library.words),
            "strength_in_text": _STRENGTH_IN_TEXT,
            "unknown": _UNKNOWN,
            "coverage": _COVERAGE,
            "likeness": _LIKENESS,
            "most": MOST_QUOTATIONS,
        },
    ).all()
    if not rows:
        return ()
    best = float(rows[0].score)
    confidence = best + _EACH_WORD * min(_MOST_WORDS, max(row.words for row in rows))
    if confidence < _CONFIDENT:
        return ()
    return tuple(sections[row.section] for row in rows if float(row.score) >= _WORTH_QUOTING * best)


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


@dataclass(frozen=True, slots=True)
class _Library:
    """The sections as the query takes them, and every word that they hold."""

    phrases: str
    words: frozenset[str]


@lru_cache(maxsize=2)
def _library(sections: tuple[Section, ...]) -> _Library:
    phrases = [
        {"section": number, "in_text": in_text, "words": vocabulary.plain_words(phrase)}
        for number, section in enumerate(sections)
        for in_text, phrase in [
            (False, section.title),
            *((False, question) for question in section.asked),
            (True, section.markdown),
        ]
    ]
    words = frozenset(word for phrase in phrases for word in str(phrase["words"]).split())
    return _Library(json.dumps(phrases), words | frozenset(vocabulary.SAME_MEANING))


_SAME_MEANING = json.dumps(dict(vocabulary.SAME_MEANING))


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
