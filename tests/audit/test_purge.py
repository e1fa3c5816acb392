"""The purge: what is over goes, by category and in batches; everything else, and the proof, stays."""

from collections.abc import Iterator
from datetime import timedelta

import psycopg2
import pytest
from flask import Flask

from capecontrol import clock
from capecontrol.audit import events, retention, seals
from capecontrol.config import SettingsError
from tests.audit.chain import connected, query


@pytest.fixture(autouse=True)
def usual_days() -> Iterator[None]:
    yield
    retention.configure("")


def store(app: Flask, category: str, days: float, count: int = 1) -> None:
    with connected(app) as cursor:
        cursor.execute(
            "INSERT INTO audit_logs (event_id, event_type, event_category, event_level, success, created_at, "
            "user_email) "
            "SELECT gen_random_uuid()::text, 'a', %s, 'info', true, %s, 'old@example.com' FROM generate_series(1, %s)",
            (category, clock.now() - timedelta(days=days), count),
        )


def purge(app: Flask, *, is_dry_run: bool = False) -> dict[str, int]:
    with app.app_context():
        return dict(retention.purge(actor=None, is_dry_run=is_dry_run))


def stored(app: Flask) -> list[tuple[str, int]]:
    return query(
        app,
        "SELECT event_category, count(*) FROM audit_logs WHERE event_type = 'a' GROUP BY 1 ORDER BY 1",
    )


def test_each_category_has_its_own_time(committed_app: Flask) -> None:
    retention.configure("request=10, data=20")
    for category, days in (("request", 9), ("request", 11), ("data", 19), ("data", 21), ("security", 729)):
        store(committed_app, category, days)
    assert purge(committed_app) == {"request": 1, "data": 1}
    assert stored(committed_app) == [("data", 1), ("request", 1), ("security", 1)]


def test_every_category_of_the_list_has_a_time_by_default(committed_app: Flask) -> None:
    assert retention.cutoffs().keys() == set(events.CATEGORIES)
    for category in events.CATEGORIES:
        store(committed_app, category, 89)
        store(committed_app, category, 10_000)
    assert purge(committed_app) == dict.fromkeys(events.CATEGORIES, 1)


def test_nothing_is_kept_for_ever_unless_it_is_said_and_what_is_unknown_is_kept(committed_app: Flask) -> None:
    retention.configure("request=0")
    store(committed_app, "request", 10_000)
    store(committed_app, "inherited", 10_000)
    assert purge(committed_app) == {}
    assert stored(committed_app) == [("inherited", 1), ("request", 1)]


def test_all_kept_for_ever_is_a_setting_too(committed_app: Flask) -> None:
    retention.configure(",".join(f"{category}=0" for category in events.CATEGORIES))
    store(committed_app, "request", 10_000)
    assert purge(committed_app) == {}


def test_the_longest_time_there_is_can_still_be_purged_by(committed_app: Flask) -> None:
    retention.configure(f"request={retention.LONGEST_DAYS}")
    store(committed_app, "request", retention.LONGEST_DAYS - 1)
    store(committed_app, "request", retention.LONGEST_DAYS + 1)
    assert purge(committed_app) == {"request": 1}


def test_a_dry_run_counts_the_same_and_touches_nothing(committed_app: Flask) -> None:
    store(committed_app, "request", 91, count=3)
    before = query(committed_app, "SELECT to_jsonb(audit_logs) FROM audit_logs ORDER BY id")
    assert purge(committed_app, is_dry_run=True) == {"request": 3}
    assert query(committed_app, "SELECT to_jsonb(audit_logs) FROM audit_logs ORDER BY id") == before
    assert query(committed_app, "SELECT count(*) FROM audit_seals") == [(0,)]
    assert purge(committed_app) == {"request": 3}


def test_batches_windows_and_equal_moments_lose_nothing(committed_app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "BATCH", 4)
    monkeypatch.setattr(retention, "WINDOW", 10)
    store(committed_app, "request", 100, count=23)  # all of one moment
    store(committed_app, "data", 101, count=11)
    store(committed_app, "request", 102, count=2)
    assert purge(committed_app) == {"request": 25}
    assert stored(committed_app) == [("data", 11)]
    counts = query(committed_app, "SELECT count FROM audit_seals WHERE kind = 'purge'")
    assert sum(count for (count,) in counts) == 25
    assert max(count for (count,) in counts) == 4


def test_each_batch_is_an_event_with_its_counts_and_a_link_that_names_the_rows(committed_app: Flask) -> None:
    store(committed_app, "request", 91, count=2)
    store(committed_app, "ai_service", 366)
    over = query(committed_app, "SELECT array_agg(id ORDER BY id) FROM audit_logs WHERE event_type = 'a'")
    purge(committed_app)
    ((details, category),) = query(
        committed_app, "SELECT event_metadata, event_category FROM audit_logs WHERE event_type = 'audit_purged'"
    )
    assert details["rows"] == {"ai_service": 1, "request": 2}
    assert details["before"].keys() == {"ai_service", "request"}
    assert category == "admin"
    assert query(committed_app, "SELECT row_ids FROM audit_seals WHERE kind = 'purge'") == over


def test_what_was_just_recorded_is_sealed_before_it_can_be_purged(committed_app: Flask) -> None:
    store(committed_app, "request", 91)
    purge(committed_app)
    assert query(committed_app, "SELECT kind, count FROM audit_seals ORDER BY number") == [
        ("adopted", 1),
        ("purge", 1),
    ]


def test_a_purge_waits_for_the_sealer_and_deletes_nothing_without_a_link(committed_app: Flask) -> None:
    store(committed_app, "request", 91)
    with committed_app.app_context():
        seals.seal()
    with connected(committed_app) as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", (seals.LOCK,))
        with pytest.raises(Exception, match="lock timeout") as caught:
            purge(committed_app)
        assert isinstance(caught.value.orig, psycopg2.errors.LockNotAvailable)
    assert stored(committed_app) == [("request", 1)]
    assert purge(committed_app) == {"request": 1}


@pytest.mark.parametrize(
    "setting", ["request", "request=", "request=ten", "request=-1", "weather=3", "request=9999999", "request=36501"]
)
def test_a_setting_that_makes_no_sense_is_refused_in_words(setting: str) -> None:
    with pytest.raises(SettingsError, match="AUDIT_RETENTION_DAYS") as caught:
        retention.configure(setting)
    assert "authentication" in str(caught.value)


def test_the_command_says_what_it_would_do_and_does_it(committed_app: Flask) -> None:
    store(committed_app, "request", 91, count=2)
    command = committed_app.test_cli_runner()
    told = command.invoke(args=["audit", "purge", "--dry-run"])
    assert told.exit_code == 0
    assert "Would delete 2 events." in told.output
    assert stored(committed_app) == [("request", 2)]
    done = command.invoke(args=["audit", "purge"])
    assert "Deleted 2 events." in done.output
    assert "2  request, before " in done.output
    assert stored(committed_app) == []
