"""Sealing: every row in exactly one seal, in a chain that is signed, whatever happens meanwhile."""

import threading
from collections import Counter

import psycopg2
import pytest
from flask import Flask
from sqlalchemy import select

from capecontrol import create_app
from capecontrol.audit import evidence, seals, signing, tasks
from capecontrol.audit.evidence import Seal
from capecontrol.audit.models import AuditKey, AuditSeal
from capecontrol.config import libpq_url
from capecontrol.extensions import db, jobs
from capecontrol.operations import worker
from tests.audit.chain import Intruder, connected, query, record_some, store_full_row
from tests.conftest import dispose, settings_for
from tests.people import make_person
from tests.postgres import Databases


@pytest.fixture(autouse=True)
def keep_the_key():
    key = list(signing._key)
    yield
    signing._key[:] = key


def seal(app: Flask) -> int:
    with app.app_context():
        return seals.seal()


def links(app: Flask) -> list[Seal]:
    with app.app_context():
        rows = db.session.scalars(select(AuditSeal).order_by(AuditSeal.number)).all()
        return [Seal(**{name: getattr(row, name) for name in seals._SEAL_FIELDS}) for row in rows]


def sealed_ids(app: Flask) -> list[int]:
    return sorted(row_id for link in links(app) if link.kind != "purge" for row_id in link.row_ids)


def stored_ids(app: Flask) -> list[int]:
    return [row_id for (row_id,) in query(app, "SELECT id FROM audit_logs ORDER BY id")]


def insert(cursor, event_id: str, xid: str = "DEFAULT") -> None:
    cursor.execute(
        "INSERT INTO audit_logs (event_id, event_type, event_category, event_level, success, created_at, stored_xid) "
        f"VALUES (%s, 'a', 'data', 'info', true, now(), {xid})",
        (event_id,),
    )


def test_nothing_is_sealed_where_nothing_happened(committed_app: Flask) -> None:
    assert seal(committed_app) == 0
    assert links(committed_app) == []


def test_the_command_says_why_it_leaves_events_unsealed(committed_app: Flask) -> None:
    def told() -> str:
        answer = committed_app.test_cli_runner().invoke(args=["audit", "seal"])
        assert answer.exit_code == 0
        return answer.stdout

    assert told() == "There is nothing to seal.\n"
    record_some(committed_app, 2)
    with connected(committed_app) as other:
        other.execute("SELECT pg_advisory_xact_lock(%s)", (seals.LOCK,))
        assert told() == "Nothing was sealed. Another process is sealing at this moment.\n"
    assert told() == "Sealed 2 events.\n"
    with connected(committed_app) as other:
        other.execute("SELECT pg_current_xact_id()")
        record_some(committed_app, 3)
        assert told() == "Sealed 1 event. Some wait for a transaction that is still open.\n"  # that of the first key
        assert told() == "Nothing was sealed. Some wait for a transaction that is still open.\n"
    assert told() == "Sealed 3 events.\n"
    assert told() == "There is nothing to seal.\n"


def test_every_row_is_sealed_once_and_a_round_without_news_adds_nothing(committed_app: Flask) -> None:
    record_some(committed_app, 3)
    assert seal(committed_app) == 3
    assert seal(committed_app) == 1, "the first seal told of its key"
    assert seal(committed_app) == 0
    record_some(committed_app, 2)
    assert seal(committed_app) == 2
    assert sealed_ids(committed_app) == stored_ids(committed_app)
    assert [link.number for link in links(committed_app)] == [1, 2, 3]


def test_the_links_hold_together_and_are_signed(committed_app: Flask) -> None:
    for _ in range(3):
        record_some(committed_app, 2)
        seal(committed_app)
    previous = evidence.FIRST_PREVIOUS
    with committed_app.app_context():
        keys = {key.key_id: key.public_key for key in db.session.scalars(select(AuditKey))}
    for link in links(committed_app):
        assert link.faults(keys[link.key_id]) == []
        assert link.previous_hash == previous
        previous = link.hash
    assert len(keys) == 1


def test_a_sealed_row_is_what_its_line_says_without_a_database(committed_app: Flask) -> None:
    """The text PostgreSQL hashes over and the one made from an export are the same, byte for byte."""
    person = make_person(committed_app)
    store_full_row(committed_app, person.id)
    seal(committed_app)
    (link,) = links(committed_app)
    for zone in ("UTC", "Africa/Johannesburg"):
        with connected(committed_app) as cursor:
            cursor.execute("SELECT set_config('TimeZone', %s, false)", (zone,))
            cursor.execute(f"SELECT {seals.sealed_line_sql()}, {seals.ROW_COLUMNS} FROM audit_logs ORDER BY id")
            rows = cursor.fetchall()
        for index, (line, *columns) in enumerate(rows[: link.count]):
            row = evidence.row_of_line(evidence.read_line(line))
            assert row == seals.row_of(columns)
            leaf = link.leaves[index * 32 : index * 32 + 32]
            owner = link.owners[index * 16 : index * 16 + 16]
            fault = evidence.fault_of(row.id, row.sealed_text, row.user_id, row.salt, row.personal_text, leaf, owner)
            assert fault is None


def test_a_transaction_that_is_still_open_leaves_no_gap(committed_app: Flask) -> None:
    """P22: a number is handed out before the commit, so what is newer must wait for what is older."""
    record_some(committed_app, 1)
    seal(committed_app)
    seal(committed_app)
    url = libpq_url(committed_app.config["SETTINGS"].database_url)
    with psycopg2.connect(url) as slow, slow.cursor() as cursor:
        insert(cursor, "slow")
        record_some(committed_app, 2)
        assert seal(committed_app) == 0, "the newer rows are not yet safe"
        slow.commit()
    slow.close()
    assert seal(committed_app) == 3
    assert sealed_ids(committed_app) == stored_ids(committed_app)


def test_an_act_does_not_wait_for_whoever_seals(committed_app: Flask) -> None:
    """P23: a chain in the request would let one act at a time commit."""
    with connected(committed_app) as sealer:
        sealer.execute("SELECT pg_advisory_xact_lock(%s)", (seals.LOCK,))
        sealer.execute("LOCK TABLE audit_seals, audit_keys IN ACCESS EXCLUSIVE MODE")
        record_some(committed_app, 3)
        assert len(stored_ids(committed_app)) == 3


def test_many_sealers_at_once_seal_every_row_once(committed_app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seals, "BATCH", 7)
    record_some(committed_app, 10)
    done = threading.Event()

    def keep_recording() -> None:
        record_some(committed_app, 60)
        done.set()

    def keep_sealing() -> None:
        while not done.is_set():
            seal(committed_app)

    threads = [threading.Thread(target=keep_recording), *(threading.Thread(target=keep_sealing) for _ in range(3))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seal(committed_app)
    assert max(Counter(sealed_ids(committed_app)).values()) == 1
    assert sealed_ids(committed_app) == stored_ids(committed_app)
    numbers = [link.number for link in links(committed_app)]
    assert numbers == list(range(1, len(numbers) + 1))
    hashes = [link.hash for link in links(committed_app)]
    assert [link.previous_hash for link in links(committed_app)][1:] == hashes[:-1]


def test_a_batch_is_cut_inside_one_large_transaction(committed_app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    record_some(committed_app, 1)
    seal(committed_app)
    seal(committed_app)
    monkeypatch.setattr(seals, "BATCH", 10)
    with connected(committed_app) as cursor:
        for number in range(35):
            insert(cursor, f"large {number}")
    assert seal(committed_app) == 35
    assert [link.count for link in links(committed_app)][-4:] == [10, 10, 10, 5]
    assert sealed_ids(committed_app) == stored_ids(committed_app)


def test_between_the_minutes_only_full_seals_are_made(committed_app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    record_some(committed_app, 1)
    seal(committed_app)
    seal(committed_app)
    monkeypatch.setattr(seals, "BATCH", 10)
    with committed_app.app_context():
        for count, sealed in ((9, 0), (1, 10), (25, 20)):
            record_some(committed_app, count)
            assert seals.seal(only_full=True) == sealed
        assert seals.seal() == 5


def test_the_first_seals_are_cut_as_well(committed_app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seals, "BATCH", 10)
    record_some(committed_app, 25)
    seal(committed_app)
    seal(committed_app)
    assert [link.count for link in links(committed_app)][:3] == [10, 10, 5]
    assert sealed_ids(committed_app) == stored_ids(committed_app)


def test_after_a_restore_into_another_cluster_it_goes_on_and_seals_every_row_once(
    committed_app: Flask, databases: Databases
) -> None:
    """Transaction numbers start over there, and come to the old ones again."""
    record_some(committed_app, 6)
    seal(committed_app)
    seal(committed_app)
    now = int(query(committed_app, "SELECT pg_current_xact_id()::text")[0][0])
    # As if what is there had been sealed in a cluster whose numbers were those that come here next; and as if two rows
    # had not been sealed there yet, of numbers that this cluster has passed, and will reach only soon.
    intruder = Intruder(databases, committed_app)
    intruder.run("UPDATE audit_logs SET stored_xid = %s::text::xid8", str(now + 8))
    intruder.run(
        "UPDATE audit_seals SET cluster = 'another', first_xid = %s::text::xid8, last_xid = %s::text::xid8, "
        "next_xid = %s::text::xid8",
        *[str(now + 8)] * 2,
        str(now + 9),
    )
    with connected(committed_app) as cursor:
        insert(cursor, "passed", "'5'")
        insert(cursor, "soon", f"'{now + 10}'")
    record_some(committed_app, 2)
    for _ in range(12):
        seal(committed_app)
        record_some(committed_app, 1)
    seal(committed_app)
    assert max(Counter(sealed_ids(committed_app)).values()) == 1
    assert sealed_ids(committed_app) == stored_ids(committed_app)
    kinds = [link.kind for link in links(committed_app)]
    assert kinds[:3] == ["adopted", "rows", "adopted"]
    assert set(kinds[3:]) == {"rows"}


def test_another_key_signs_from_now_on_and_the_old_proofs_stay(committed_app: Flask) -> None:
    record_some(committed_app, 1)
    seal(committed_app)
    other = create_app(
        settings_for(committed_app.config["SETTINGS"].database_url, audit_signing_key="another-key-" * 4)
    )
    record_some(other, 1)
    seal(other)
    seal(other)
    dispose(other)
    with committed_app.app_context():
        keys = {key.key_id: key.public_key for key in db.session.scalars(select(AuditKey))}
    chain = links(committed_app)
    assert [link.faults(keys[link.key_id]) for link in chain] == [[]] * len(chain)
    assert len(keys) == 2
    assert len({link.key_id for link in chain}) == 2
    told = query(
        committed_app, "SELECT event_metadata ->> 'key' FROM audit_logs WHERE event_type = 'audit_key_changed'"
    )
    assert {key for (key,) in told} == set(keys)


def test_the_same_setting_gives_the_same_key(committed_app: Flask) -> None:
    signing.configure("x" * 40)
    one = signing.signing_key().public_key().public_bytes_raw()
    signing.configure("x" * 40)
    assert signing.signing_key().public_key().public_bytes_raw() == one
    signing.configure("y" * 40)
    assert signing.signing_key().public_key().public_bytes_raw() != one


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 8, 9, 100])
def test_every_leaf_is_proven_by_its_path_and_by_no_other(count: int) -> None:
    leaves = b"".join(evidence.leaf_hash(b"%d" % number, evidence.NOBODY) for number in range(count))
    root = evidence.tree_root(leaves)
    for index in range(count):
        leaf, path = leaves[index * 32 : index * 32 + 32], evidence.inclusion_path(leaves, index)
        assert evidence.root_of_path(leaf, index, count, path) == root
        assert evidence.root_of_path(bytes(32), index, count, path) != root
        assert evidence.root_of_path(leaf, index, count, [*path, bytes(32)]) is None
        assert count == 1 or evidence.root_of_path(leaf, index, count, path[:-1]) is None


def test_the_tree_is_that_of_rfc_6962() -> None:
    """The test vectors of Certificate Transparency: leaves as they are given there, and their roots."""
    entries = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
    roots = {
        1: "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        8: "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    }
    leaves = b"".join(evidence.leaf_hash(bytes.fromhex(entry), b"") for entry in entries)
    for count, root in roots.items():
        assert evidence.tree_root(leaves[: count * 32]).hex() == root
    assert evidence.tree_root(b"").hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_the_worker_knows_the_jobs_and_they_do_it(committed_app: Flask) -> None:
    assert tasks in worker.TASKS
    periodic = {task.task.name: task.cron for task in jobs.periodic_registry.periodic_tasks.values()}
    assert periodic["audit.seal"] == "* * * * *"
    assert {"audit.seal_full", "audit.purge"} <= periodic.keys()
    record_some(committed_app, 2)
    with committed_app.app_context():
        tasks.seal_full(0)
        assert links(committed_app) == []
        tasks.seal(0)
        assert len(links(committed_app)) == 1
        tasks.purge(0)
    assert len(stored_ids(committed_app)) == 3
