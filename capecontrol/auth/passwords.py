"""Passwords: the rule, the strength, and the hash behind its gates, one for registrations and one for sign-ins."""

import ctypes
import itertools
import re
import sys
import unicodedata
from array import array
from bisect import bisect_left
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from runpy import run_path

import bcrypt
from argon2 import PasswordHasher, extract_parameters
from argon2.exceptions import InvalidHashError, VerificationError

from capecontrol.auth.gate import Gate, hashing_threads

SHORTEST = 12
LONGEST = 256

# A stored hash that asks for more than this is not ours, and would be an attack on memory.
_MOST_MEMORY_KIB = 262_144
_FIRST_GUESS_SECONDS = 0.05
_M_ARENA_MAX = -8  # of glibc's malloc.h
_OTHER_THREADS = 8  # the main one, what runs each second, and room for a library's
_PRODUCT_WORDS = ("capecontrol",)
_LEET = str.maketrans("013457@$!", "oieastasi")
_NO_LETTERS = re.compile(r"[\W\d_]+")
_AT_THE_ENDS = re.compile(r"^[\W\d_]+|[\W\d_]+$")
_WEIGHTS = {"minLength": 25, "hasUpper": 20, "hasLower": 20, "hasNumber": 20, "hasSpecial": 15}


def _keep_memory_apart(threads: int) -> None:
    """Let the C library, where it is glibc, keep a pool of memory for each thread.

    It has eight for each core, and threads beyond that share them. Small things of a request's thread then settle in
    the 19 MiB a hash has left, and the next hash takes another 19 MiB: measured, 17 MB more in each process.
    """
    _call_malloc("mallopt", _M_ARENA_MAX, threads)


def _call_malloc(name: str, *arguments: int) -> None:
    """Call one of glibc's own functions for memory; where the C library is another, nothing happens."""
    function = getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
    if function is not None:
        function(*arguments)


@dataclass(slots=True)
class _Hashing:
    hasher: PasswordHasher
    registration: Gate
    sign_in: Gate
    decoy: str


def configure(*, slots: int, threads: int, memory_kib: int, passes: int) -> None:
    """Set the hash's cost and the gates' size for this process.

    `slots` hashes run at a time; as many registrations and as many sign-ins have permits and take turns, so that
    neither stops the other. They may occupy the threads that `places_of` says, and streams an eighth (web/streams.py):
    an eighth always answers.
    """
    global _hashing
    _listed()  # now, and not in the first registration
    _keep_memory_apart(threads + slots + _OTHER_THREADS)
    seconds = _FIRST_GUESS_SECONDS * passes / 2 * memory_kib / 19456
    hashers = hashing_threads(slots)
    registrations, sign_ins = places_of(threads)
    _hashing = _Hashing(
        hasher=PasswordHasher(time_cost=passes, memory_cost=memory_kib, parallelism=1),
        registration=_gate(slots, registrations, seconds, hashers),
        sign_in=_gate(slots, sign_ins, seconds, hashers),
        decoy=_decoy(passes, memory_kib),
    )


def places_of(threads: int) -> tuple[int, int]:
    """Return how many of a process's threads registrations may occupy, and how many sign-ins."""
    return threads // 2, threads // 4


def _gate(slots: int, places: int, seconds: float, hashers: ThreadPoolExecutor) -> Gate:
    permits = min(slots, places)
    return Gate(permits, waiters=places - permits, seconds=seconds, threads=hashers)


def hash_for_registration(password: str) -> str:
    """Return the argon2id hash. Raises Overloaded when the gate is full."""
    hashing = _ready()
    return hashing.registration.run(lambda: hashing.hasher.hash(_normal(password)))


def has_room_for_registration() -> bool:
    """Say whether the gate would take a registration now."""
    return _ready().registration.has_room


def seconds_per_hash() -> float:
    """Return what a hash takes here lately, in seconds, for estimates of how long others wait."""
    return max(0.001, _ready().registration.seconds)


def verify_for_registration(password_hash: str, password: str) -> bool:
    """Say whether a repeated registration carries the account's password. Raises Overloaded."""
    return _ready().registration.run(lambda: _matches(password_hash, password))


def verify_for_sign_in(password_hash: str | None, password: str) -> tuple[bool, str | None]:
    """Say whether the password is right, and return a fresh hash when the stored one is of an older kind.

    With no stored hash the same work is done in vain, so that an unknown address takes as long as a known one. Only an
    inherited bcrypt hash takes longer, until its owner signs in once and it is replaced (decision 004).
    Raises Overloaded when the gate is full.
    """
    hashing = _ready()

    def work() -> tuple[bool, str | None]:
        is_right = _matches(password_hash or hashing.decoy, password)
        if not is_right or not password_hash:
            return False, None
        return True, hashing.hasher.hash(_normal(password)) if _is_outdated(password_hash) else None

    return hashing.sign_in.run(work)


def problems(password: str, *, email: str = "", name: str = "") -> list[str]:
    """Return what is wrong with a new password, in sentences; empty when it will do.

    NIST SP 800-63B-4 and ASVS 6.2: length counts and no composition is asked for; common and breached passwords, the
    product's name and the person's own are refused.
    """
    if len(password) < SHORTEST:
        return [f"Use at least {SHORTEST} characters. A few unrelated words make a good password."]
    if len(password) > LONGEST:
        return [f"Use at most {LONGEST} characters."]
    if not password.isprintable() and any(unicodedata.category(character) in ("Cc", "Cs") for character in password):
        return ["Control characters cannot be part of a password."]
    folded = password.casefold()
    letters = _letters(folded)
    if any(_is_little_more_than(word, letters) for word in _PRODUCT_WORDS):
        return ["This is little more than our own name. Please choose something harder to guess."]
    if _is_part_of(email, letters) or any(_is_little_more_than(word, letters) for word in _own_words(email, name)):
        return ["This is little more than your own name or address. Please choose something harder to guess."]
    if _is_common(folded):
        return ["This password is on lists that attackers try first. Please choose another."]
    return []


def requirements(password: str) -> dict[str, bool]:
    """Return the older client's five marks; only the length is a rule of ours."""
    return {
        "minLength": len(password) >= SHORTEST,
        "hasUpper": any(character.isupper() for character in password),
        "hasLower": any(character.islower() for character in password),
        "hasNumber": any(character.isdigit() for character in password),
        "hasSpecial": any(not character.isalnum() for character in password),
    }


def score(password: str, *, is_refused: bool) -> int:
    """Return 0 to 100: the older client's weights, held low while the password would be refused."""
    total = sum(_WEIGHTS[mark] for mark, is_met in requirements(password).items() if is_met)
    return min(total, 20) if is_refused else max(total, 60)


def _matches(password_hash: str, password: str) -> bool:
    if password_hash.startswith("$2"):
        # bcrypt reads 72 bytes; inherited accounts were made by a library that cut there silently.
        try:
            return bcrypt.checkpw(password.encode("utf-8", "replace")[:72], password_hash.encode())
        except ValueError:  # cut short on its way here; nobody's password
            return False
    try:
        if extract_parameters(password_hash).memory_cost > _MOST_MEMORY_KIB:
            return False
        return _ready().hasher.verify(password_hash, _normal(password))
    except (VerificationError, InvalidHashError):
        return False


def _is_outdated(password_hash: str) -> bool:
    return password_hash.startswith("$2") or _ready().hasher.check_needs_rehash(password_hash)


def _normal(password: str) -> bytes:
    """Return the password's bytes in Unicode NFC, so that two keyboards writing the same character agree."""
    return unicodedata.normalize("NFC", password).encode("utf-8", "replace")


def _own_words(email: str, name: str) -> list[str]:
    """Return the letters of the person's names and of the address's first part, where there are enough of them."""
    texts = [email.partition("@")[0], *name.split(), name]
    words = [_letters(text) for text in texts]
    return [word for word in words if len(word) >= 4]


def _is_little_more_than(word: str, letters: str) -> bool:
    """Say whether the password, of which these are the letters, is the word with fewer than four beside."""
    return word in letters and len(letters) - len(word) < 4


def _is_part_of(email: str, letters: str) -> bool:
    """Say whether the password, of which these are the letters, is a piece of the person's own address."""
    return len(letters) >= 6 and letters in _letters(email)


def _letters(text: str) -> str:
    return _NO_LETTERS.sub("", text.casefold())


def _is_common(folded: str) -> bool:
    """Say whether the password is a listed one, also in disguise: doubled, decorated at its ends, or a plain row."""
    candidates = {folded, folded.translate(_LEET)}
    candidates |= {_AT_THE_ENDS.sub("", candidate) for candidate in candidates}
    candidates |= {_repeated_part(candidate) for candidate in candidates}
    return (
        len(_repeated_part(folded)) < 4
        or any(_is_listed(candidate) for candidate in candidates)
        or any(_is_a_row(candidate) for candidate in candidates if len(candidate) > 3)
    )


def _repeated_part(text: str) -> str:
    match = re.fullmatch(r"(.+?)\1+", text, flags=re.DOTALL)
    return match[1] if match else text


def _is_a_row(text: str) -> bool:
    """Say whether the text only counts up or down, like abcdefghijkl or 987654321."""
    steps = {ord(after) - ord(before) for before, after in itertools.pairwise(text)}
    return steps in ({1}, {-1}, {0})


def _is_listed(word: str) -> bool:
    listed = _listed()
    position = bisect_left(listed, hash(word))
    return position < len(listed) and listed[position] == hash(word)


@lru_cache(maxsize=1)
def _listed() -> "array[int]":
    """Return the hashes of zxcvbn's common and breached passwords, in order.

    Of zxcvbn only that file is run, and forgotten: measured, the package and the words as a set keep 8 MB of each
    process, this keeps 2. Of 64 bits, a password that is not on the list meets one that is once in 10^14.
    """
    package = find_spec("zxcvbn")
    if package is None or not package.submodule_search_locations:
        raise RuntimeError("zxcvbn, whose list of passwords we use, is not installed")
    lists = run_path(str(Path(package.submodule_search_locations[0]) / "frequency_lists.py"))["FREQUENCY_LISTS"]
    hashes = array("q", sorted(map(hash, lists["passwords"])))
    lists.clear()
    _call_malloc("malloc_trim", 0)
    return hashes


_hashing: _Hashing | None = None


def _ready() -> _Hashing:
    if _hashing is None:
        raise RuntimeError("passwords.configure() was not called")
    return _hashing


def _decoy(passes: int, memory_kib: int) -> str:
    """Return a well-formed hash of nobody's password, made without the cost of hashing."""
    return f"$argon2id$v=19$m={memory_kib},t={passes},p=1$c29tZXNhbHRzb21lc2FsdA$" + "A" * 43
