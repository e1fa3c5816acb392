"""Markdown to safe HTML: no raw HTML, no remote images, links that leak nothing."""

from collections.abc import MutableMapping, Sequence
from functools import lru_cache
from typing import Any

import nh3
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
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


@lru_cache(maxsize=128)  # a long message and its markup can be a few hundred kilobytes
def render(markdown: str) -> str:
    """Return the markdown as HTML in which nothing runs and nothing is fetched from elsewhere.

    Raw HTML is shown as the text it is; images become links; links open without telling where from. nh3 cleans the
    result once more, so that a fault of the renderer is not a hole.
    """
    html = _parser.render(markdown)
    return nh3.clean(
        html,
        tags=_TAGS,
        attributes=_ATTRIBUTES,
        url_schemes=_SCHEMES,
        link_rel="noopener noreferrer nofollow",
        strip_comments=True,
    )


def _code_block(
    _renderer: RendererHTML, tokens: Sequence[Token], index: int, _options: Any, env: MutableMapping[str, Any]
) -> str:
    token = tokens[index]
    language = token.info.split(maxsplit=1)[0].lower() if token.info.strip() else ""
    highlighted = env.get("highlighted", 0) + len(token.content)
    if language not in _LANGUAGES or highlighted > _MOST_HIGHLIGHTED:
        return f"<pre><code>{escape(token.content)}</code></pre>\n"
    env["highlighted"] = highlighted
    code = highlight(token.content, get_lexer_by_name(language), HtmlFormatter(nowrap=True))
    return f'<pre><code class="language-{language}">{code}</code></pre>\n'


def _image_as_link(renderer: RendererHTML, tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
    token = tokens[index]
    label = renderer.renderInlineAsText(token.children or [], options, env) or "image"
    return f'<a href="{escape(str(token.attrs.get("src", "")))}">{escape(label)}</a>'


def _build() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False, "breaks": True})
    parser.enable(["table", "strikethrough"])
    parser.add_render_rule("image", _image_as_link)
    parser.add_render_rule("fence", _code_block)
    return parser


_parser = _build()
