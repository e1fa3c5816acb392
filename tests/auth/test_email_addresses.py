"""E-mail addresses: what is taken, what is refused, and what decides identity."""

import random

import pytest
from email_validator import EmailNotValidError, validate_email

from capecontrol.auth import email_addresses


@pytest.mark.parametrize(
    ("typed", "address", "key"),
    [
        ("Naledi@Example.COM", "Naledi@example.com", "naledi@example.com"),
        ("  a@example.com ", "a@example.com", "a@example.com"),
        ("plus+Tag@example.com", "plus+Tag@example.com", "plus+tag@example.com"),
        ("x@MÜNCHEN.example.com", "x@münchen.example.com", "x@xn--mnchen-3ya.example.com"),
        ("x@xn--mnchen-3ya.example.com", "x@münchen.example.com", "x@xn--mnchen-3ya.example.com"),
    ],
)
def test_an_address_has_a_normal_form_and_a_key(typed: str, address: str, key: str) -> None:
    assert email_addresses.parse(typed) == email_addresses.EmailAddress(address, key)


@pytest.mark.parametrize(
    "typed",
    [
        "",
        " ",
        "a",
        "a@",
        "@b",
        "a b@example.com",
        "a@b",
        "a@@example.com",
        "a@exa_mple.com",
        "a@.com",
        "a\n@b.com",
        "\ufffd\ufffd@example.com",
    ],
)
def test_what_is_no_address_is_refused_in_words(typed: str) -> None:
    with pytest.raises(ValueError, match=r"\w+ \w+"):
        email_addresses.parse(typed)
    assert email_addresses.key_of(typed) is None


def test_an_over_long_address_is_refused_before_it_is_looked_at() -> None:
    with pytest.raises(ValueError, match="254"):
        email_addresses.parse("a" * 1_000_000 + "@example.com")


def as_the_library_reads(text: str) -> tuple[str, str] | str:
    try:
        valid = validate_email(text, check_deliverability=False, strict=True)
    except EmailNotValidError as error:
        return email_addresses._in_words(error)
    return valid.normalized, f"{valid.local_part}@{valid.ascii_domain}".lower()


def as_we_read(text: str) -> tuple[str, str] | str:
    try:
        found = email_addresses.parse(text)
    except ValueError as error:
        return str(error).partition("address: ")[2]
    return found.address, found.key


def test_the_quick_way_for_plain_addresses_reads_them_as_the_library_does() -> None:
    """Half of these go the quick way; what they mean and how they are refused is the library's all the same."""
    letters = random.Random(4)
    domains = [
        *("example.com", "EXAMPLE.com", "a.b.example.com", "a..b.com", ".a.com", "a.com.", "-a.com", "a-.com", "com"),
        *(
            "localhost",
            "x.test",
            "a.local",
            "x.onion",
            "exa_mple.com",
            "127.0.0.1",
            "a.1",
            "ab--c.com",
            "a" * 64 + ".com",
        ),
        *("xn--mnchen-3ya.example.com", "XN--a.com", "münchen.example.com", "faß.example.com"),
    ]
    plain = 0
    for _ in range(3000):
        alphabet = letters.choice(("ab.-_+x9", "ab.-_+@Zé'\"!"))
        local = "".join(letters.choice(alphabet) for _ in range(letters.choice((1, 2, 3, 5, 8, 63, 64, 65))))
        text = f"{local}@{letters.choice(domains)}"
        plain += bool(email_addresses._PLAIN.fullmatch(text))
        assert as_we_read(text) == as_the_library_reads(text), text
    for text in ("Postmaster@example.com", "a" * 64 + "@" + "b" * 60 + ".com", "naledi@", "@example.com"):
        assert as_we_read(text) == as_the_library_reads(text)
    assert plain > 300


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("gmail.con", "gmail.com"),
        ("gmial.com", "gmail.com"),
        ("gmai.com", "gmail.com"),
        ("gmaill.com", "gmail.com"),
        ("gnail.com", "gmail.com"),
        ("gmail.co", "gmail.com"),
        ("gmail.cmo", "gmail.com"),
        ("GMIAL.CON", "gmail.com"),
        ("gmail,com", "gmail.com"),
        ("gmail..com", "gmail.com"),
        ("gmail.com.", "gmail.com"),
        ("gmail. com", "gmail.com"),
        ("gmailcom", "gmail.com"),
        ("gmail", "gmail.com"),
        ("hotmial.com", "hotmail.com"),
        ("hotmail.com,", "hotmail.com"),
        ("outlok.com", "outlook.com"),
        ("yaho.com", "yahoo.com"),
        ("iclod.com", "icloud.com"),
        ("example.cmo", "example.com"),
        ("mail.example.ner", "mail.example.net"),
        ("example.ogr", "example.org"),
        ("example.coza", "example.co.za"),
    ],
)
def test_a_typing_mistake_is_asked_about(typed: str, meant: str) -> None:
    assert email_addresses.suggestion(f"Naledi+x@{typed}") == f"Naledi+x@{meant}"
    assert email_addresses.suggestion(f" Naledi+x@@{typed} ") == f"Naledi+x@{meant}"


@pytest.mark.parametrize(
    "typed",
    [
        *("gmail.com", "GMAIL.com", "googlemail.com", "mail.com", "ymail.com", "email.com", "cloud.com", "gmx.de"),
        *("web.de", "aol.com", "me.com", "msn.com", "live.com", "proton.me", "pm.me", "hotmail.fr", "hotmail.co.uk"),
        *("yahoo.fr", "yahoo.co.uk", "yahoo.com.br", "outlook.de", "qq.com", "example.com", "example.co.za", "x"),
        *("example.cm", "example.co", "example.om", "example.bet", "uct.ac.za", "kingdom.com", "internet.org"),
        *("xn--mnchen-3ya.example.com", "münchen.example.com"),
    ],
)
def test_what_may_well_be_right_is_left_alone(typed: str) -> None:
    assert email_addresses.suggestion(f"naledi@{typed}") is None


@pytest.mark.parametrize(
    "typed", ["", "@", "gmail.con", "@gmail.con", "a b@gmail.con", '"@gmail.con', "a@" + "b," * 5000]
)
def test_what_cannot_be_mended_gets_no_suggestion(typed: str) -> None:
    assert email_addresses.suggestion(typed) is None
