"""The help as the Guide searches it: which words stand in which section, and how well each section fits a question.

PostgreSQL's full-text search brings words to their stems (its `english` configuration, which drops stop words): those
of the help once in a process, those of a question when it is asked. A section is as good as the rarity of the
question's words it holds, and a heading or a question people ask counts for more than running text. Words that the
help does not know at all count against every section: they are what tells "how do I delete my account" from the same
question about another company's product.
"""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import Connection, text
from sqlalchemy.orm import Session

from capecontrol.conversations.assistants import vocabulary
from capecontrol.help.pages import Section

# Settled by measuring: tests/help/questions.py holds the questions, tests/conversations/test_guide.py the measure.
_STRENGTH_IN_TEXT = 0.6  # of a word in the running text; in a heading or an asked question it is 1
_UNKNOWN = 1.4  # how much more than the rarest known word a word unknown to the help weighs
_COVERAGE, _LIKENESS = 0.7, 0.3  # how much of the question is found; how like one heading or asked question it is

_MOST_LIBRARIES = 2

_STEMS_OF_TEXTS = text(
    "SELECT tsvector_to_array(to_tsvector('english', words)) "
    "FROM unnest(CAST(:texts AS text[])) WITH ORDINALITY AS entry (words, number) ORDER BY number"
)
_STEMS_OF_WORDS = text(
    "SELECT (ts_lexize('english_stem', word))[1] "
    "FROM unnest(CAST(:words AS text[])) WITH ORDINALITY AS entry (word, number) ORDER BY number"
)

_libraries: dict[tuple[Section, ...], "Library"] = {}


class Found(NamedTuple):
    """A section that holds words of a question: its number, how well it fits from 0 to about 1, and how many words."""

    section: int
    score: float
    words: int


@dataclass(frozen=True, slots=True)
class _Phrase:
    """A heading or an asked question, by its stems; `length` is the root of what they weigh together."""

    words: frozenset[str]
    length: float


@dataclass(frozen=True, slots=True)
class _Entry:
    """A section: how strongly it holds each of its words, and what it can be asked by."""

    strengths: dict[str, float]
    phrases: tuple[_Phrase, ...]


class Library:
    """Sections, by the stems of their words. `words` are all of them as written."""

    def __init__(self, connection: Connection | Session, sections: Sequence[Section]) -> None:
        """Read the sections; asks the database twice."""
        asked_by = [[_plain(phrase) for phrase in (part.title, *part.asked)] for part in sections]
        running = [_plain(part.markdown) for part in sections]
        self.words = (
            frozenset(vocabulary.SAME_MEANING)
            .union(*(words.split() for words in running))
            .union(*(words.split() for phrases in asked_by for words in phrases))
        )
        self._meanings = _read_meanings(connection)
        stems = iter(self._stems(connection, [words for phrases in asked_by for words in phrases] + running))
        phrases = [[next(stems) for _ in phrases] for phrases in asked_by]
        texts = list(stems)
        held_by = Counter(word for of, words in zip(phrases, texts, strict=True) for word in words.union(*of))
        self._rarity = {word: self._weight(count, len(sections)) for word, count in held_by.items()}
        self._of_unknown = _UNKNOWN * self._weight(0, len(sections))
        self._entries = [self._entry(of, words) for of, words in zip(phrases, texts, strict=True)]

    def rank(self, connection: Connection | Session, question: str, *, most: int) -> list[Found]:
        """Return the sections that hold words of the question, best first; asks the database once."""
        (asked,) = self._stems(connection, [question])
        weights = {word: self._rarity.get(word, self._of_unknown) for word in asked}
        found = [
            Found(number, self._score(entry, weights), len(entry.strengths.keys() & asked))
            for number, entry in enumerate(self._entries)
            if not asked.isdisjoint(entry.strengths)
        ]
        return sorted(found, key=lambda one: (-one.score, one.section))[:most]

    def _score(self, entry: _Entry, weights: dict[str, float]) -> float:
        whole = sum(weights.values())
        covered = sum(weight * entry.strengths.get(word, 0.0) for word, weight in weights.items())
        likeness = max(sum(weights.get(word, 0.0) for word in phrase.words) / phrase.length for phrase in entry.phrases)
        return _COVERAGE * covered / whole + _LIKENESS * likeness / math.sqrt(whole)

    def _entry(self, phrases: Iterable[frozenset[str]], words: frozenset[str]) -> _Entry:
        strengths = dict.fromkeys(words, _STRENGTH_IN_TEXT) | dict.fromkeys(frozenset().union(*phrases), 1.0)
        with_words = [phrase for phrase in phrases if phrase]
        lengths = [math.sqrt(sum(self._rarity[word] for word in phrase)) for phrase in with_words]
        return _Entry(strengths, tuple(map(_Phrase, with_words, lengths)))

    def _stems(self, connection: Connection | Session, texts: list[str]) -> list[frozenset[str]]:
        """Return each text's stems, those of one meaning as one."""
        rows = connection.execute(_STEMS_OF_TEXTS, {"texts": texts}).scalars()
        return [frozenset(self._meanings.get(stem, stem) for stem in stems) for stems in rows]

    @staticmethod
    def _weight(held_by: int, sections: int) -> float:
        """Return what a word weighs that so many of the sections hold: the rarer, the more."""
        return math.log(1 + (sections - held_by + 0.5) / (held_by + 0.5))


def library_of(connection: Connection | Session, sections: Collection[Section]) -> Library:
    """Return the library of these sections, which is read once in a process."""
    key = tuple(sections)
    found = _libraries.get(key)
    if found is None:
        found = Library(connection, key)
        if len(_libraries) >= _MOST_LIBRARIES:
            _libraries.clear()
        _libraries[key] = found
    return found


def _plain(phrase: str) -> str:
    return str(vocabulary.plain_words(phrase))


def _read_meanings(connection: Connection | Session) -> dict[str, str]:
    """Return for each stem that stands for another that other one."""
    words = [*vocabulary.SAME_MEANING, *vocabulary.SAME_MEANING.values()]
    stems = connection.execute(_STEMS_OF_WORDS, {"words": words}).scalars().all()
    half = len(vocabulary.SAME_MEANING)
    pairs = zip(stems[:half], stems[half:], strict=True)
    # Of several meanings the first by the alphabet.
    return dict(sorted(((stem, meaning) for stem, meaning in pairs if stem and meaning), reverse=True))
