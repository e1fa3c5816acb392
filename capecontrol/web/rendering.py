"""Markdown to safe HTML: no raw HTML, no remote images, links that leak nothing; and little of it takes long.

What would take too long to read, or become too much to send, is shown as it was written.
"""

import re
import sys
from collections import OrderedDict
from collections.abc import Iterable, MutableMapping, Sequence
from threading import Lock
from typing import Any

import nh3
from markdown_it import MarkdownIt
from markdown_it.common.utils import mdTrim
from markdown_it.renderer import RendererHTML
from markdown_it.rules_block import StateBlock, reference, table
from markdown_it.rules_block.table import escapedSplit, getLine
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token
from markupsafe import escape
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name

_TAGS = {
    *(
        "p",
        "br",
        "hr",
        "strong",
        "em",
        "s",
        "code",
        "pre",
        "blockquote",
        "ul",
        "ol",
        "li",
        "a",
        "span",
        "div",
    ),
    *("h1", "h2", "h3", "h4", "h5", "h6", "table", "thead", "tbody", "tr", "th", "td"),
}
_ATTRIBUTES = {
    "a": {"href", "title"},
    "span": {"class"},
    "div": {"class"},
    "code": {"class"},
    "ol": {"start"},
}
_SCHEMES = {"http", "https", "mailto"}

# Some of Pygments' lexers take seconds for a few thousand well-chosen characters (tried with all 550 of them), and
# the rest grow with the square. So: a list of those that were timed, and few characters of a message.
_LANGUAGES = {
    *("bash", "sh", "shell", "console", "powershell", "docker", "dockerfile", "nginx", "ini", "toml", "yaml", "yml"),
    *("python", "py", "python3", "pycon", "ruby", "rb", "php", "lua", "sql", "json", "diff", "xml", "html"),
    *("javascript", "js", "typescript", "ts", "css", "scss"),
    *("c", "c++", "cpp", "go", "golang", "rust", "rs", "java", "kotlin", "swift"),
}
_MOST_HIGHLIGHTED = 3_000

_COLUMN = re.compile("-+")

# A character that may be markup is a step, of some 20 us; a paragraph, an item of a list or another block is four.
_MOST_STEPS = 15_000
_STEPS_OF_BLOCK = 4
# Short rows are filled up to the width of their table: 1,000 characters could ask for 60,000 cells.
_MOST_CELLS = 5_000
# Two less than the parser's own limit, beyond which it leaves text out. A list takes two.
_DEEPEST = 18
# Dense markup grows some ten times, a deep quotation 26 times.
_MOST_GROWTH = 20
_SPARE_CHARACTERS = 10_000

_KEPT_BYTES = 8 * 1024 * 1024


class _TooMuch(Exception):
    """The text is to be shown as it was written."""


class _Drawn:
    """What was drawn last, as many bytes of it as are spared for that, sources included."""

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self.bytes = 0
        self._html: OrderedDict[str, str] = OrderedDict()
        self._lock = Lock()

    def get(self, markdown: str) -> str | None:
        with self._lock:
            if markdown in self._html:
                self._html.move_to_end(markdown)
            return self._html.get(markdown)

    def keep(self, markdown: str, html: str) -> None:
        with self._lock:
            if markdown in self._html:
                return
            self._html[markdown] = html
            self.bytes += sys.getsizeof(markdown) + sys.getsizeof(html)
            while self.bytes > self.most_bytes:
                old = self._html.popitem(last=False)
                self.bytes -= sum(map(sys.getsizeof, old))


_drawn = _Drawn(_KEPT_BYTES)


def render(markdown: str) -> str:
    """Return the markdown as HTML in which nothing runs and nothing is fetched from elsewhere.

    Raw HTML is shown as the text it is; images become links; links open without telling where from. It has at most
    20 times as many characters as the markdown, and 10,000.
    """
    html = _drawn.get(markdown)
    if html is None:
        html = _draw(markdown)
        _drawn.keep(markdown, html)
    return html


def _draw(markdown: str) -> str:
    most = _MOST_GROWTH * len(markdown) + _SPARE_CHARACTERS
    env: dict[str, Any] = {}
    try:
        tokens = _parser.parse(markdown, env)
        if _length(tokens) > most:
            raise _TooMuch
        html = _clean(_parser.renderer.render(tokens, _parser.options, env))
        if len(html) > most:
            raise _TooMuch
    except _TooMuch:
        return _clean(f"<pre><code>{escape(markdown)}</code></pre>\n")
    return html


def _clean(html: str) -> str:
    """Return the HTML with nothing in it but what is let through, so that a fault of the renderer is not a hole."""
    return nh3.clean(
        html,
        tags=_TAGS,
        attributes=_ATTRIBUTES,
        url_schemes=_SCHEMES,
        link_rel="noopener noreferrer nofollow",
        strip_comments=True,
    )


def _length(tokens: Iterable[Token]) -> int:
    """Return how much there is in the tokens without their tags. One address can stand in thousands of links."""
    return sum(
        (_length(token.children) if token.children else len(token.content))
        + sum(len(str(value)) for value in token.attrs.values())
        for token in tokens
    )


def _limit_blocks(state: StateBlock, *_where: Any) -> bool:
    """Stop the reading where it lies too deep or takes too many steps; a rule that never matches."""
    if state.level >= _DEEPEST:
        raise _TooMuch
    return _take_steps(state.env, _STEPS_OF_BLOCK)


def _limit_markup(state: StateInline, _silent: bool) -> bool:
    return _take_steps(state.env, 1)


def _take_steps(env: MutableMapping[str, Any], steps: int) -> bool:
    env["steps"] = env.get("steps", 0) + steps
    if env["steps"] > _MOST_STEPS:
        raise _TooMuch
    return False


def _reference(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """Read the definition of a link, and leave it to be seen: it may be all that somebody wrote."""
    if not reference(state, start, end, silent):
        return False
    state.push("paragraph_open", "p", 1)
    token = state.push("inline", "", 0)
    token.content = state.getLines(start, state.line, state.blkIndent, False).strip()
    token.map, token.children = [start, state.line], []
    state.push("paragraph_close", "p", -1)
    return True


def _table(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """Read a table, unless the text has too many cells with it: then it and those after it stay as written."""
    if not table(state, start, end, True):
        return False
    columns = len(
        _COLUMN.findall(state.src, state.bMarks[start + 1] + state.tShift[start + 1], state.eMarks[start + 1])
    )
    most_rows = (_MOST_CELLS - state.env.get("cells", 0)) // columns
    row = start + 2
    while row < end and not state.isEmpty(row) and row - start - 1 <= most_rows:
        row += 1
    rows = row - start - 1
    if rows > most_rows:
        state.env["cells"] = _MOST_CELLS
        return False
    if silent:
        return True
    state.env["cells"] = state.env.get("cells", 0) + rows * columns
    before = len(state.tokens)
    table(state, start, end, False)
    _keep_surplus(state, state.tokens[before:], columns)
    return True


def _keep_surplus(state: StateBlock, tokens: Iterable[Token], columns: int) -> None:
    """Put what a row has beyond the width of its table into its last cell; the parser leaves it out."""
    for token in tokens:
        if token.type == "inline" and token.map:
            cell = token
        elif token.type == "tr_close" and cell.map:
            row = escapedSplit(mdTrim(getLine(state, cell.map[0])))
            surplus = row[columns + (row[0] == "") :]
            if surplus[-1:] == [""]:
                surplus.pop()
            cell.content = " | ".join([cell.content, *map(mdTrim, surplus)])


def _code_block(
    _renderer: RendererHTML, tokens: Sequence[Token], index: int, _options: Any, env: MutableMapping[str, Any]
) -> str:
    named, content = _language_and_code(tokens[index])
    label = f'<span class="lang">{escape(named)}</span>\n' if named else ""
    language = named.lower()
    highlighted = env.get("highlighted", 0) + len(content)
    if language not in _LANGUAGES or highlighted > _MOST_HIGHLIGHTED:
        return f"<pre>{label}<code>{escape(content)}</code></pre>\n"
    env["highlighted"] = highlighted
    code = highlight(content, get_lexer_by_name(language), HtmlFormatter(nowrap=True))
    return f'<pre>{label}<code class="language-{language}">{code}</code></pre>\n'


def _language_and_code(token: Token) -> tuple[str, str]:
    """Return the word that names a block's language, known or not, and its code.

    What else stands beside the opening fence is part of the code, as is a word that stands there and nothing below it.
    """
    words = token.info.split(maxsplit=1)
    is_named = bool(words) and (words[0].lower() in _LANGUAGES or (len(words) == 1 and bool(token.content)))
    named, beside = (words[0], words[1:]) if is_named else ("", [token.info.strip()] if words else [])
    return named, "\n".join([*beside, token.content])


def _image_as_link(renderer: RendererHTML, tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
    token = tokens[index]
    label = renderer.renderInlineAsText(token.children or [], options, env) or "image"
    return f'<a href="{escape(str(token.attrs.get("src", "")))}">{escape(label)}</a>'


class _Parser(MarkdownIt):
    """A parser that leaves a link as it was written whose address would not be let through."""

    def validateLink(self, url: str) -> bool:  # noqa: N802 -- the parser's own name
        """Say whether the address is still there when the HTML is cleaned, whatever that holds against it."""
        return "href" in _clean(f'<a href="{escape(url)}"></a>')


def _build() -> MarkdownIt:
    parser = _Parser("commonmark", {"html": False, "breaks": True})
    parser.enable(["table", "strikethrough"])
    parser.block.ruler.at("table", _table, {"alt": ["paragraph", "reference"]})
    parser.block.ruler.at("reference", _reference)
    parser.block.ruler.before("table", "limits", _limit_blocks)
    parser.inline.ruler.after("text", "limits", _limit_markup)
    parser.add_render_rule("image", _image_as_link)
    parser.add_render_rule("fence", _code_block)
    return parser


_parser = _build()
