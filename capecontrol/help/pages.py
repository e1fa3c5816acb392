"""The help pages as read from `templates/help/*.md`: what people read under `/help` and what the Guide quotes.

A page is a file named after its slug: front matter, then sections, each with the questions it answers.

    ---
    title: Signing in and out
    summary: Getting in, staying signed in, and what to do when it does not work.
    order: 50
    ---

    ## How to sign in
    <!-- asked: how do I log in? | where is the login page? | do I need a user name? -->

    Choose **Sign in** at the top of the page ...
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from capecontrol.errors import NotFound

HELP_FOLDER = Path(__file__).resolve().parents[2] / "templates" / "help"

_SLUG = re.compile(r"[a-z][a-z0-9]*(?:-[a-z0-9]+)*")
_ASKED = re.compile(r"<!-- asked: (.+) -->")
_FRONT_MATTER = ("title", "summary", "order")
_SECTIONS = range(3, 9)
_QUESTIONS = range(3, 11)


class HelpPageError(ValueError):
    """A help page breaks the form; the text names the file, the line and what to change."""


@dataclass(frozen=True, slots=True)
class Section:
    """One answer: a heading, the questions people ask about it (never shown), and its text."""

    page_slug: str
    anchor: str
    title: str
    asked: tuple[str, ...]
    markdown: str

    @property
    def path(self) -> str:
        """Where people read it, without the host."""
        return f"/help/{self.page_slug}#{self.anchor}"


@dataclass(frozen=True, slots=True)
class HelpPage:
    """One page of the help; pages are listed by `order`."""

    slug: str
    title: str
    summary: str
    order: int
    sections: tuple[Section, ...]


def list_pages() -> tuple[HelpPage, ...]:
    """Return every page, in the order in which they are offered to people."""
    return tuple(_PAGES.values())


def list_sections() -> tuple[Section, ...]:
    """Return every section of every page, in reading order: what the Guide looks things up in."""
    return _SECTIONS_OF_ALL_PAGES


def get_page(slug: str) -> HelpPage:
    """Return the page of that slug. Raises NotFound."""
    page = _PAGES.get(slug)
    if page is None:
        raise NotFound("There is no help page at this address.")
    return page


def read_pages(folder: Path) -> tuple[HelpPage, ...]:
    """Read and check every page in the folder. Raises HelpPageError for the first that breaks the form."""
    pages = [
        parse_page(path.stem, path.read_text(encoding="utf-8"), name=path.name) for path in sorted(folder.glob("*.md"))
    ]
    if not pages:
        raise HelpPageError(f"{folder} holds no help pages")
    for field in ("title", "order"):
        counts = Counter(getattr(page, field) for page in pages)
        for value, count in counts.items():
            if count > 1:
                names = ", ".join(f"{page.slug}.md" for page in pages if getattr(page, field) == value)
                raise HelpPageError(f"{names}: the {field} {value!r} is used by more than one page")
    return tuple(sorted(pages, key=lambda page: page.order))


def parse_page(slug: str, text: str, *, name: str) -> HelpPage:
    """Return the page written in `text`. Raises HelpPageError, naming `name` and the line."""
    lines = text.splitlines()
    if not _SLUG.fullmatch(slug):
        raise HelpPageError(f"{name}: name the file in lower-case words joined by hyphens")
    fields, body_starts = _front_matter(lines, name)
    if not fields["order"].isdecimal():
        raise HelpPageError(f"{name}: order must be a whole number, not {fields['order']!r}")
    sections = tuple(_sections(slug, lines, body_starts, name))
    if len(sections) not in _SECTIONS:
        raise HelpPageError(f"{name}: a page has {_SECTIONS[0]} to {_SECTIONS[-1]} sections, this one {len(sections)}")
    repeated = [anchor for anchor, count in Counter(s.anchor for s in sections).items() if count > 1]
    if repeated:
        raise HelpPageError(f"{name}: more than one section has the anchor {repeated[0]!r}")
    return HelpPage(slug, fields["title"], fields["summary"], int(fields["order"]), sections)


def _front_matter(lines: Sequence[str], name: str) -> tuple[dict[str, str], int]:
    """Return the fields between the two lines of hyphens, and the index of the line after them."""
    if not lines or lines[0] != "---" or "---" not in lines[1:]:
        raise HelpPageError(f"{name}: begin with front matter between two lines of three hyphens")
    end = lines.index("---", 1)
    fields: dict[str, str] = {}
    for index in range(1, end):
        key, separator, value = (part.strip() for part in lines[index].partition(":"))
        if not separator or not value or key not in _FRONT_MATTER or key in fields:
            raise _error(name, index, f"front matter holds {', '.join(_FRONT_MATTER)}, each once as `name: value`")
        fields[key] = value
    missing = [key for key in _FRONT_MATTER if key not in fields]
    if missing:
        raise HelpPageError(f"{name}: the front matter lacks {', '.join(missing)}")
    return fields, end + 1


def _sections(slug: str, lines: Sequence[str], start: int, name: str) -> Iterator[Section]:
    headings = _heading_lines(lines, start)
    first = headings[0] if headings else len(lines)
    for index in range(start, first):
        if lines[index].strip():
            raise _error(name, index, "text stands in a section: begin with a `## ` heading")
    for heading, end in zip(headings, [*headings[1:], len(lines)], strict=True):
        title = lines[heading].removeprefix("## ").strip()
        if not lines[heading].startswith("## ") or not anchor_of(title):
            raise _error(name, heading, "a section begins with `## ` and its title; other headings are not used")
        asked = _questions(lines[heading + 1] if heading + 1 < end else "", heading + 1, name)
        markdown = "\n".join(lines[heading + 2 : end]).strip()
        if not markdown:
            raise _error(name, heading, f"the section {title!r} has no text")
        if "<!--" in markdown:
            raise _error(name, heading, f"the section {title!r} has a comment in its text")
        yield Section(slug, anchor_of(title), title, asked, markdown)


def _questions(line: str, index: int, name: str) -> tuple[str, ...]:
    match = _ASKED.fullmatch(line.strip())
    questions = tuple(question.strip() for question in match[1].split("|")) if match else ()
    if len(questions) not in _QUESTIONS or not all(questions) or len(set(questions)) < len(questions):
        raise _error(
            name,
            index,
            f"below a heading stand {_QUESTIONS[0]} to {_QUESTIONS[-1]} different questions as "
            "`<!-- asked: one? | two? | three? -->`",
        )
    return questions


def _heading_lines(lines: Sequence[str], start: int) -> list[int]:
    """Return the indexes of the headings of any level, leaving out comments in blocks of code."""
    headings = []
    in_code = False
    for index in range(start, len(lines)):
        if lines[index].startswith("```"):
            in_code = not in_code
        elif not in_code and re.match(r"#{1,6}(\s|$)", lines[index]):
            headings.append(index)
    return headings


def anchor_of(title: str) -> str:
    """Return the fragment under which a section of that title is found on its page."""
    return "-".join(re.findall(r"[a-z0-9]+", title.lower()))


def _error(name: str, index: int, text: str) -> HelpPageError:
    return HelpPageError(f"{name}, line {index + 1}: {text}")


# Read when the module is first imported, so that a malformed page stops the start and not a reader.
_PAGES = {page.slug: page for page in read_pages(HELP_FOLDER)}
_SECTIONS_OF_ALL_PAGES = tuple(section for page in _PAGES.values() for section in page.sections)
