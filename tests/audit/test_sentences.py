"""Guard: every event reads as a sentence, in the third person and in the second."""

import re
from pathlib import Path

import pytest

from capecontrol.audit import events, sentences
from capecontrol.audit.sentences import Happening, tell, tell_concerned, tell_oneself

pytestmark = pytest.mark.guard

EVERY = sorted(events.all_events())


def test_every_event_has_a_wording_and_every_wording_an_event() -> None:
    missing = set(EVERY) - sentences.worded_events()
    assert not missing, f"give {sorted(missing)} a sentence in audit/sentences.py"
    unknown = sentences.worded_events() - set(EVERY)
    assert not unknown, f"{sorted(unknown)} are worded but no event of audit/events.py"


def test_every_limit_has_a_wording_and_every_wording_a_limit() -> None:
    package = Path(sentences.__file__).parent.parent
    limits = {name for path in package.rglob("*.py") for name in re.findall(r'\bLimit\("(\w+)"', path.read_text())}
    assert len(limits) > 5
    assert limits == sentences.worded_limits()


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("success", [True, False])
def test_every_event_reads_as_a_sentence_both_ways(name: str, success: bool) -> None:
    details = dict.fromkeys(events.all_events()[name].details, "x")
    for has_actor in (True, False):
        happening = Happening(name, success, "Thandi Nkosi", has_actor, details)
        for sentence in (tell(happening), tell_oneself(happening), tell(Happening(name, success, None, has_actor))):
            assert sentence[0].isupper()
            assert not sentence.endswith((".", " ", ":"))
            assert "_" not in sentence
            assert "{" not in sentence
            assert "None" not in sentence
        assert "Thandi" not in tell_oneself(happening)


@pytest.mark.parametrize(
    ("happening", "third", "second"),
    [
        (
            Happening("user_registration", True, "Thandi Nkosi", details={"method": "page"}),
            "Thandi Nkosi opened an account",
            "You opened your account",
        ),
        (
            Happening("user_login_failed", False, "thandi@example.com", False, {"reason": "wrong_password_or_closed"}),
            "Somebody could not sign in as thandi@example.com: the password was wrong or the account is closed",
            "Somebody could not sign in to your account: the password was wrong or the account is closed",
        ),
        (
            Happening("user_registration_failed", False, "thandi@example.com", False, {"reason": "email_taken"}),
            "Somebody could not open an account as thandi@example.com: the address already has an account",
            "You could not open an account: the address already has an account",
        ),
        (
            Happening("user_login", True, "Sipho", details={"method": "token", "remembered": False}),
            "Sipho signed in with a program",
            "You signed in with a program",
        ),
        (
            Happening("profile_updated", True, "Sipho", details={"fields": ["goals"]}),
            "Sipho changed their profile",
            "You changed your profile",
        ),
        (
            Happening("conversation_renamed", False, "Sipho"),
            "Sipho could not rename a conversation",
            "You could not rename a conversation",
        ),
        (
            Happening("role_changed", True, "Ayanda", False, {"old": "client", "new": "admin"}),
            "Ayanda became an administrator",
            "You became an administrator",
        ),
        (
            Happening("registrations_turned_away", False, None, False, {"number": 1200}),
            "We were too busy for 1,200 more registrations",
            "We were too busy for 1,200 more registrations",
        ),
        (
            Happening("access_denied", False, "Sipho", details={"wanted": "session"}),
            "Sipho tried to sign somebody else out and was refused",
            "You tried to sign somebody else out and were refused",
        ),
        (
            Happening("role_changed", True, "Administrator", False, {"old": None, "new": "admin"}),
            "An administrator's account was opened",
            "An administrator's account was opened for you",
        ),
        (
            Happening("role_changed", True, "Ayanda", True, {"old": None, "new": "admin"}),
            "Ayanda opened an administrator's account",
            "You opened an administrator's account",
        ),
        (
            Happening("rate_limit_exceeded", False, "Sipho", details={"limit": "check_password"}),
            "Sipho had too many passwords judged in a short time",
            "You had too many passwords judged in a short time",
        ),
        (
            Happening("rate_limit_exceeded", False, None, False, {"limit": "one of the first version"}),
            "Somebody did something too often",
            "You did something too often",
        ),
        (
            Happening("access_denied", False, "Sipho", details={"wanted": "audit.search"}),
            "Sipho tried to open the audit log and was refused",
            "You tried to open the audit log and were refused",
        ),
        (
            Happening("access_denied", False, None, False, {"wanted": "audit_api.refuse_delete"}),
            "Somebody tried to erase a part of the audit log and was refused",
            "You tried to erase a part of the audit log and were refused",
        ),
        (
            Happening("ai_prompt_submitted", True, "Sipho", details={"message_id": "m", "characters": 1200}),
            "Sipho sent a message of 1,200 characters",
            "You sent a message of 1,200 characters",
        ),
        (
            Happening("email_checks", True, None, False, {"checked": 1204, "taken": 1, "refused": 30}),
            "Somebody asked 1,204 times whether an address is free, and once it was taken; "
            "30 times it was too often and not answered",
            "Somebody asked 1,204 times whether an address is free, and once it was taken; "
            "30 times it was too often and not answered",
        ),
        (
            Happening("email_checks", True, None, False, {"checked": 1, "taken": 0, "refused": 0}),
            "Somebody asked once whether an address is free",
            "Somebody asked once whether an address is free",
        ),
        (
            Happening("audit_degraded", True, None, False, {"swallowed": 1204, "reasons": {"55P03": 1204}}),
            "The audit log could not be written for a while; 1,204 events had to wait elsewhere",
            "The audit log could not be written for a while; 1,204 events had to wait elsewhere",
        ),
        (
            Happening("audit_events_dropped", True, None, False, {"dropped": 1}),
            "1 event for the audit log could wait nowhere but in the server's own log",
            "1 event for the audit log could wait nowhere but in the server's own log",
        ),
        (
            Happening("audit_purged", True, None, False, {"rows": {"request": 1200, "data": 4}, "before": {}}),
            "The purge took 1,204 events out of the audit log: their time was over",
            "The purge took 1,204 events out of the audit log: their time was over",
        ),
        (
            Happening("audit_pseudonymised", True, None, False, {"rows": 1}),
            "What was personal in 1 event of the audit log was erased",
            "What was personal in 1 event of the audit log was erased",
        ),
        (
            Happening("conversation_read_by_staff", True, "Ayanda", details={"owner_id": "x"}),
            "Ayanda read somebody else's conversation",
            "You read somebody else's conversation",
        ),
        (
            Happening("conversation_read_by_staff", False, "Ayanda", details={"owner_id": "x"}),
            "Ayanda could not read somebody else's conversation",
            "You could not read somebody else's conversation",
        ),
        (
            Happening("ai_response_generated", True, "Sipho", False),
            "The assistant answered Sipho",
            "The assistant answered you",
        ),
    ],
)
def test_how_they_read(happening: Happening, third: str, second: str) -> None:
    assert tell(happening) == third
    assert tell_oneself(happening) == second


def test_what_staff_did_is_told_to_whose_it_was_without_a_name() -> None:
    read = Happening("conversation_read_by_staff", True, "Ayanda", details={"owner_id": "x"})
    assert tell_concerned(read) == "A member of staff read your conversation"
    refused = Happening("conversation_read_by_staff", False, "Ayanda", details={"owner_id": "x"})
    assert tell_concerned(refused) == "A member of staff could not read your conversation"


@pytest.mark.parametrize(
    ("name", "success", "third", "second"),
    [
        ("password_reset_request", True, "Sipho: password reset request", "Password reset request"),
        ("ddos-attempt", False, "Sipho: ddos attempt (refused)", "Ddos attempt (refused)"),
        ("", True, "Sipho: something", "Something"),
        ("___", True, "Sipho: something", "Something"),
    ],
)
def test_names_of_the_inherited_database_still_read_decently(name: str, success: bool, third: str, second: str) -> None:
    assert tell(Happening(name, success, "Sipho")) == third
    assert tell_oneself(Happening(name, success, "Sipho")) == second


@pytest.mark.parametrize("details", [{}, {"reason": ["a"]}, {"new": None, "characters": True, "wanted": {"a": 1}}])
def test_strange_details_do_no_harm(details: dict[str, object]) -> None:
    for name in EVERY:
        assert tell(Happening(name, True, "Sipho", True, details))
        assert tell(Happening(name, False, None, False, details))


def test_no_detail_beside_the_named_ones_comes_into_a_sentence() -> None:
    secret = "hunter2-hunter2"
    for name, kind in events.all_events().items():
        details = dict.fromkeys(kind.details - {"wanted"}, secret) | {"password": secret, "token": secret}
        for success in (True, False):
            happening = Happening(name, success, "Sipho", True, details)
            if name == "demo_filled":  # two numbers, which only the demonstration itself writes
                continue
            assert secret not in tell(happening)
            assert secret not in tell_oneself(happening)
