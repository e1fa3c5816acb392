"""What people call things: turns a text into the words under which the Guide looks it up.

Only ordinary English stands here, no question and no sentence of the help. Both the help and the questions pass
through it, so a synonym costs nothing where it does not matter.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Set
from functools import cache

_PHRASES: Mapping[str, str] = {
    "signin": "sign in, signs in, signed in, signing in, sign ins, log in, logs in, logged in, logging in, log ins, "
    "log on, logs on, logged on, logging on, login, logins, logon, get in, getting in",
    "signout": "sign out, signs out, signed out, signing out, log out, logs out, logged out, logging out, log off, "
    "logs off, logged off, logging off, sign off, signed off, logout, logouts, logoff, sign me out, log me out",
    "register": "sign up, signs up, signed up, signing up, signup, create an account, creating an account, "
    "create my account, open an account, opening an account, make an account, get an account, new account, "
    "open account, create account, make account, account creation, register an account, "
    "register my account, become a member",
    "stay": "keep me, keeps me, remember me, remembers me, remain",
    "twostep": "two step, two factor, 2 step, 2 factor, 2fa, mfa, multi factor, second factor, authenticator",
    "screenreader": "screen reader, screen readers, voiceover, nvda, jaws, talkback",
    "javascript": "java script, js, noscript",
    "ai": "artificial intelligence, language model, language models, llm, llms, chatbot, chatbots",
    "email": "e mail, e mails",
    "forgot": "do not remember, don t remember, can t remember, cannot remember, no longer remember, do not recall, "
    "don t recall, can t recall, cannot recall",
    "continue": "pick up, picking up, come back, coming back, return to, carry on, carrying on, go on, goes on, "
    "going on, resume, resuming",
    "delete": "get rid of, getting rid of, throw away, throw out",
    "restore": "get it back, get them back, bring back, bringing back, undelete",
    "rename": "give a different name, give another name, change the name, change the title, change its name",
    "invent": "make up, makes up, made up, make things up, makes things up",
    "howlong": "how long, how many seconds, how many minutes, how many hours, how many days, how many weeks, "
    "how many months",
    "howmany": "how many, how much",
    "toooften": "too many, too often, too much, too frequently",
    "human": "real person, real human, human being, human beings, living person, real people",
    "passwordmanager": "password manager, password managers",
    "twice": "two times, 2 times",
    "dark": "night mode, night theme",
    "backup": "back up, backing up, back ups",
    "install": "set up, setting up, setup",
    "company": "business, businesses",
    "capecontrol": "cape control",
    "support": "help desk, helpdesk, customer service",
    "capital": "upper case, uppercase",
    "timeout": "time out, times out, timed out",
    "mistake": "by accident, accidentally, by mistake, inadvertently",
    "notme": "was not me, wasn t me, weren t me, were not me, not mine, wasn t mine",
    "remote": "from afar, from far, from a distance, from here",
    "": "last night, last week, last month, last year, per month, per year, where do i find, where can i find, "
    "where to find, where i find, where i can find, at the moment, right now, of course, at all, such as, a lot",
}

_WORDS: Mapping[str, str] = {
    "register": "registration signup join enrol enroll",
    "email": "mail mailbox",
    "conversation": "chat thread discussion dialogue",
    "answer": "reply response respond",
    "delete": "remove removal erase erasure destroy trash bin wipe discard",
    "change": "update modify edit alter amend correct replace adjust",
    "restore": "back recover recovery undo revert retrieve",
    "admin": "administrator",
    "boss": "employer supervisor manager",
    "staff": "employee personnel",
    "colleague": "coworker teammate",
    "company": "organisation organization firm",
    "picture": "photo photograph image avatar",
    "attach": "attachment upload",
    "file": "document",
    "download": "export",
    "phone": "telephone mobile cellphone smartphone iphone android",
    "device": "tablet ipad gadget",
    "computer": "laptop pc desktop machine",
    "product": "software",
    "site": "website",
    "link": "hyperlink url",
    "app": "application",
    "cost": "price pricing pay payment paid money fee charge free",
    "forgot": "forget forgotten",
    "lost": "lose loss vanish disappear gone",
    "steal": "stole stolen theft thief robbed",
    "send": "sent submit post",
    "write": "wrote written type typed typing",
    "find": "found locate search",
    "keep": "kept retain retention store stored storage save hold",
    "begin": "began begun start launch",
    "break": "broke broken",
    "choose": "chose chosen pick select",
    "leave": "left",
    "hear": "heard",
    "mean": "meant meaning",
    "trust": "reliable accurate accuracy believe true truth",
    "invent": "fabricate hallucinate hallucination",
    "private": "privacy confidential confidentiality secret",
    "maximum": "max longest",
    "minimum": "min shortest",
    "character": "letter",
    "wrong": "incorrect mistaken",
    "error": "bug",
    "block": "lock",
    "twice": "double",
    "unknown": "stranger unrecognised unrecognized unfamiliar strange suspicious foreign",
    "hack": "compromise intruder",
    "confirm": "confirmation verify verification validate",
    "authentication": "authenticate authentification",
    "receive": "arrive got",
    "allow": "permit permission accept",
    "expire": "expiry expiration timeout",
    "end": "terminate disconnect kick",
    "colour": "color",
    "group": "team",
    "robot": "bot",
    "monitor": "uptime",
    "nickname": "pseudonym anonymous",
    "slow": "sluggish lag",
    "require": "mandatory compulsory obligatory",
    "record": "log",
    "activity": "action",
    "new": "fresh",
    "old": "earlier previous former older",
    "open": "reopen",
    "assistant": "guide",
    "remote": "distance remotely",
    "navigate": "navigation",
    "refuse": "refusal reject deny denied decline",
    "busy": "overloaded overload",
    "fast": "quick quickly speed",
    "promote": "upgrade",
    "wait": "waiting",
}

# Words of questions that say nothing about what is asked. PostgreSQL's own list of stop words does the rest.
_FILLERS = frozenset(
    re.findall(
        r"[a-z]+",
        """
        a able actually afternoon again already also always any anybody anyone anything aren around asked
        away bit cannot cape control could couldn current currently d dear did didn different do does
        doesn don done enough evening ever every everything explain fine for get gets getting give given go
        goes going good got greetings had hadn has hasn have haven hello help here hey hi instead isn just
        kind know let like ll look lot m made make makes many may maybe might mine morning much must my need
        needed needs now ok okay one ones oops please possible probably question questions quite re really
        said saw say says see seems seen should shouldn show since some somebody somehow someone something
        still such take taken tell than thank thanks that the there thing things think this today tomorrow
        tonight took tried try ve want wanted wants wasn way weren what whatever when whenever where whether
        which who whom whose why will with won wonder would wouldn yes yesterday yet you your
        """,
    )
)

# Other words are left alone, and letters are replaced only in long ones: "painted" is no slip for "printed".
_MENDED_LENGTHS = range(5, 31)
_SHORTEST_REPLACED = 8

# Longest first, so that a phrase wins over one that it contains.
_PHRASE_FOR = {phrase.strip(): word for word, phrases in _PHRASES.items() for phrase in phrases.split(",")}
_PHRASE = re.compile(rf"\b(?:{'|'.join(sorted(map(re.escape, _PHRASE_FOR), key=len, reverse=True))})\b")

SAME_MEANING: Mapping[str, str] = {other: word for word, others in _WORDS.items() for other in [word, *others.split()]}
"""Each word that stands for another, in any of its forms: PostgreSQL stems both."""


def plain_words(text: str) -> str:
    """Return the text as lower-case words with single spaces, phrases of one meaning as one word.

    A name such as `user_login` stays in as one word too, since it may be asked for as either.
    """
    names = _names(text)
    joined = [name.replace("_", "") for name in names if _is_compound(name)]
    words = " ".join(name.replace("_", " ") for name in names)
    return " ".join([*_PHRASE.sub(lambda match: _PHRASE_FOR[match[0]], " ".join(words.split())).split(), *joined])


def carries_meaning(text: str) -> bool:
    """Say whether any word stands in the text that could be looked up."""
    return any(word not in _FILLERS for word in plain_words(text).split())


def asked_words(question: str, known: Set[str]) -> str:
    """Return the words of a question that carry its meaning, mended where one slip of the fingers hides a known one.

    Numbers, and names joined from several words, count only where they are known.
    """
    joined = {name.replace("_", "") for name in _names(question) if _is_compound(name)}
    words = (word for word in plain_words(question).split() if word not in _FILLERS)
    return " ".join(
        word if word in known else _mended(word, known)
        for word in words
        if word in known or not (word.isdecimal() or word in joined)
    )


def _names(text: str) -> list[str]:
    return re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold())


def _is_compound(name: str) -> bool:
    return "_" in name.strip("_")


def _mended(word: str, known: Set[str]) -> str:
    """Return the only known word that one slip turns into this one, else the word itself."""
    if len(word) not in _MENDED_LENGTHS or any(word in words for words in _words_that_exist()):
        return word
    slips = {slip for slip in _one_slip_away(word) if slip in known and slip[0] == word[0]}
    return slips.pop() if len(slips) == 1 else word


@cache
def _words_that_exist() -> list[Mapping[str, int]]:
    """Return English words and names as zxcvbn lists them: none is taken for a slip, whatever it is close to.

    Loaded by the first question, in the worker: a web process has no use for 15 MB of words.
    """
    from zxcvbn.matching import RANKED_DICTIONARIES

    return [words for name, words in RANKED_DICTIONARIES.items() if name != "passwords"]


def _one_slip_away(word: str) -> Iterable[str]:
    """Yield the word with a letter added, left out or, in a long word, replaced, and with two neighbours swapped."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    for index in range(len(word) + 1):
        head, tail = word[:index], word[index:]
        yield from (head + letter + tail for letter in letters)
        if tail:
            yield head + tail[1:]
            if len(word) >= _SHORTEST_REPLACED:
                yield from (head + letter + tail[1:] for letter in letters)
        if len(tail) > 1:
            yield head + tail[1] + tail[0] + tail[2:]
