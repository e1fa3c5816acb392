"""Verification: whatever is changed, taken away or put in is found and named; in the database and in files."""

import json
import os
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import psycopg2
import pytest
from flask import Flask

from capecontrol import create_app
from capecontrol.audit import (
    erasure,
    evidence,
    export,
    offline,
    queries,
    retention,
    seals,
    signing,
    verification,
)
from capecontrol.audit.export_rows import Wanted
from capecontrol.audit.filtering import Filters
from capecontrol.audit.findings import Report
from capecontrol.audit.models import AuditLog
from capecontrol.config import libpq_url
from tests.audit.chain import Intruder, query, record_some, store_full_row
from tests.audit.test_purge import store
from tests.conftest import dispose, settings_for
from tests.people import Person, make_person
from tests.postgres import Databases

ROOT = Path(__file__).parent.parent.parent
COLUMNS = [column.name for column in AuditLog.__table__.columns]
OTHER_VALUES = {
    "id": "id + 1000",
    "stored_xid": "'3'",
    "status_code": "NULL",
    "response_time_ms": "response_time_ms + 1",
    "risk_score": "0",
    "success": "NOT success",
    "event_metadata": "jsonb_set(event_metadata, '{n}', '1.100')",
    "created_at": "created_at + interval '1 microsecond'",
    "recorded_at": "recorded_at - interval '1 day'",
    "salt": r"'\x00'",
    "commitment": r"sha256('\x00')",
}


@pytest.fixture(autouse=True)
def keep_key_and_days():
    key = list(signing._key)
    yield
    signing._key[:] = key
    retention.configure("")


@pytest.fixture
def person(committed_app: Flask) -> Person:
    return make_person(committed_app)


@pytest.fixture
def intruder(databases: Databases, committed_app: Flask) -> Intruder:
    return Intruder(databases, committed_app)


@pytest.fixture
def full(committed_app: Flask, person: Person) -> int:
    """Return the number of a sealed row with something in every column, amid others."""
    record_some(committed_app, 3)
    row_id = store_full_row(committed_app, person.id)
    record_some(committed_app, 3)
    seal(committed_app)
    seal(committed_app)
    record_some(committed_app, 4)
    seal(committed_app)
    return row_id


def seal(app: Flask) -> None:
    with app.app_context():
        seals.seal()


def in_database(app: Flask, **options) -> Report:
    return verification.verify(libpq_url(app.config["SETTINGS"].database_url), **options)


def exported_rows(app: Flask) -> list[str]:
    return [line for (line,) in query(app, f"SELECT {seals.sealed_line_sql()} FROM audit_logs ORDER BY event_id DESC")]


def exported_seals(app: Flask) -> list[str]:
    with app.app_context():
        return list(seals.export_lines())


def in_files(app: Flask, **options) -> Report:
    return offline.verify_files(exported_rows(app), exported_seals(app), **options)


def found(report: Report) -> list[tuple[str, int | None]]:
    return [(finding.kind, finding.row_id) for finding in report.findings]


def verify(app: Flask, **options) -> Report:
    """Verify in the database and in files, which must find the same."""
    by_files, report = in_files(app, **options), in_database(app, **options)
    assert set(by_files.findings) == set(report.findings)
    assert by_files.as_json() | {"findings": []} == report.as_json() | {"findings": []}
    return report


def test_a_record_nobody_touched_is_well(committed_app: Flask, full: int) -> None:
    report = verify(committed_app)
    assert report.is_well
    assert found(report) == []
    assert (report.seals, report.rows, report.unsealed) == (3, 13, 0)
    assert sum(report.keys.values()) == 3


def test_an_empty_record_is_well(committed_app: Flask) -> None:
    assert verify(committed_app).is_well


def test_a_change_in_any_column_is_found_and_the_row_named(committed_app: Flask, intruder: Intruder, full: int) -> None:
    """P20: no trigger stops a superuser, but the seal tells."""
    intruder.run("CREATE TABLE kept AS SELECT * FROM audit_logs WHERE id = %s", full)
    for column in COLUMNS:
        other = OTHER_VALUES.get(column, f"{column} || 'x'")
        intruder.run(f"UPDATE audit_logs SET {column} = {other} WHERE id = %s", full)
        report = verify(committed_app)
        if column == "id":
            assert sorted(found(report)) == [("inserted_row", full + 1000), ("missing_row", full)]
        else:
            assert found(report) == [("altered_row", full)], column
            assert report.findings[0].event_id == ("fullx" if column == "event_id" else "full")
        intruder.run("DELETE FROM audit_logs WHERE id IN (%s, %s)", full, full + 1000)
        intruder.run("INSERT INTO audit_logs SELECT * FROM kept")
        assert verify(committed_app).is_well


def test_a_single_personal_field_that_was_emptied_is_found(committed_app: Flask, intruder: Intruder, full: int) -> None:
    intruder.run("CREATE TABLE kept AS SELECT * FROM audit_logs WHERE id = %s", full)
    for column in evidence.PERSONAL_FIELDS:
        intruder.run(f"UPDATE audit_logs SET {column} = NULL WHERE id = %s", full)
        assert found(verify(committed_app)) == [("altered_row", full)]
        intruder.run("UPDATE audit_logs SET salt = NULL WHERE id = %s", full)
        assert found(verify(committed_app)) == [("altered_row", full)], "half erased"
        intruder.run("DELETE FROM audit_logs WHERE id = %s", full)
        intruder.run("INSERT INTO audit_logs SELECT * FROM kept")


def test_a_personal_field_with_a_commitment_made_to_fit_is_found(
    committed_app: Flask, intruder: Intruder, full: int
) -> None:
    intruder.run(
        "UPDATE audit_logs SET user_email = 'other@example.com', commitment = NULL WHERE id = %s".replace(
            "commitment = NULL",
            "commitment = sha256(salt || convert_to(json_build_array('other@example.com', ip_address, user_agent, "
            "event_description, error_message)::text, 'UTF8'))",
        ),
        full,
    )
    assert found(verify(committed_app)) == [("altered_row", full)]


def test_a_row_that_was_taken_away_is_found_and_named(committed_app: Flask, intruder: Intruder, full: int) -> None:
    intruder.run("DELETE FROM audit_logs WHERE id = %s", full)
    assert found(verify(committed_app)) == [("missing_row", full)]


def test_a_row_that_was_put_in_among_the_sealed_is_found_and_named(
    committed_app: Flask, intruder: Intruder, full: int
) -> None:
    ((row_id, event_id),) = intruder.run(
        "INSERT INTO audit_logs (event_id, event_type, event_category, event_level, success, created_at, commitment, "
        "stored_xid) SELECT 'put in', event_type, event_category, event_level, success, created_at, commitment, "
        "stored_xid FROM audit_logs WHERE id = %s RETURNING id, event_id",
        full,
    )
    report = verify(committed_app)
    assert found(report) == [("inserted_row", row_id)]
    assert report.findings[0].event_id == event_id


def test_the_unsealed_tail_is_told_and_is_no_finding(committed_app: Flask, full: int) -> None:
    record_some(committed_app, 2)
    report = verify(committed_app)
    assert report.is_well
    assert report.unsealed == 2
    ((oldest,),) = query(committed_app, "SELECT min(recorded_at) FROM audit_logs WHERE id > 13")
    assert report.oldest_unsealed == oldest


SEAL_CHANGES = {
    "installation": "'another'",
    "cluster": "'another'",
    "first_xid": "'1'",
    "last_xid": "'99999999'",
    "next_xid": "'99999999'",
    "next_id": "next_id + 1",
    "count": "count + 1",
    "row_ids": "row_ids[2:] || row_ids[1:1]",
    "leaves": "set_byte(leaves, 0, get_byte(leaves, 0) # 1)",
    "owners": "set_byte(owners, 0, get_byte(owners, 0) # 1)",
    "root": r"sha256('\x00')",
    "purged": "'{}'",
    "kind": "'rows'",
    "previous_hash": r"sha256('\x00')",
    "hash": r"sha256('\x00')",
    "signature": "set_byte(signature, 0, get_byte(signature, 0) # 1)",
    "created_at": "created_at - interval '1 day'",
}


def test_a_change_in_any_column_of_a_seal_is_found(committed_app: Flask, intruder: Intruder, full: int) -> None:
    intruder.run("CREATE TABLE kept AS SELECT * FROM audit_seals WHERE number = 1")
    for column, other in SEAL_CHANGES.items():
        intruder.run(f"UPDATE audit_seals SET {column} = {other} WHERE number = 1")
        kinds = {finding.kind for finding in verify(committed_app).findings if finding.seal in (1, 2)}
        assert {"signature": "bad_signature"}.get(column, "altered_seal") in kinds, column
        if column == "hash":
            assert "broken_chain" in kinds, "the next one names another"
        intruder.run("DELETE FROM audit_seals WHERE number = 1")
        intruder.run("INSERT INTO audit_seals SELECT * FROM kept")
    assert verify(committed_app).is_well


def test_a_seal_that_was_taken_away_is_found(committed_app: Flask, intruder: Intruder, full: int) -> None:
    intruder.run("DELETE FROM audit_seals WHERE number = 2")
    report = verify(committed_app)
    assert ("broken_chain", None) in found(report)
    assert report.findings[0].seal == 3
    assert {kind for kind, _ in found(report)} == {"broken_chain", "inserted_row"}


def test_a_seal_made_to_fit_without_the_key_is_found(committed_app: Flask, intruder: Intruder, full: int) -> None:
    """Whoever can write the table but has not the key can make all hashes fit, and no signature."""
    intruder.run("UPDATE audit_logs SET event_type = 'other' WHERE id = %s", full)
    forge(committed_app, intruder, key=None)
    report = verify(committed_app)
    assert {(finding.kind, finding.seal) for finding in report.findings} == {
        ("bad_signature", 1),
        ("bad_signature", 2),
        ("bad_signature", 3),
    }


def test_a_chain_made_anew_with_another_key_is_found_by_who_knows_the_key_or_a_hash(
    committed_app: Flask, intruder: Intruder, full: int
) -> None:
    honest = evidence.key_id_of(signing.signing_key().public_key().public_bytes_raw())
    ((kept,),) = query(committed_app, "SELECT encode(hash, 'hex') FROM audit_seals WHERE number = 2")
    assert verify(committed_app, trusted=[honest], anchors={2: kept}).is_well
    signing.configure("the intruder's own key, of which nobody knows")
    intruder.run("UPDATE audit_logs SET event_type = 'other' WHERE id = %s", full)
    forge(committed_app, intruder, key=signing.signing_key())
    assert verify(committed_app).is_well, "by itself it is a chain like another"
    assert set(found(verify(committed_app, trusted=[honest]))) == {("bad_signature", None)}
    (finding,) = verify(committed_app, anchors={2: kept}).findings
    assert (finding.kind, finding.seal) == ("broken_chain", 2)


def test_a_chain_that_was_cut_off_is_found_by_who_kept_a_hash(
    committed_app: Flask, intruder: Intruder, full: int
) -> None:
    ((kept,),) = query(committed_app, "SELECT encode(hash, 'hex') FROM audit_seals WHERE number = 3")
    intruder.run("DELETE FROM audit_seals WHERE number = 3")
    intruder.run("DELETE FROM audit_logs WHERE id > 10")
    assert found(verify(committed_app, anchors={3: kept})) == [("broken_chain", None)]


def test_a_key_that_was_exchanged_is_found(committed_app: Flask, intruder: Intruder, full: int) -> None:
    intruder.run("UPDATE audit_keys SET public_key = sha256(public_key)")
    assert {kind for kind, _ in found(verify(committed_app))} == {"bad_signature"}
    intruder.run("DELETE FROM audit_keys")
    assert {kind for kind, _ in found(verify(committed_app))} == {"bad_signature"}


def test_another_key_breaks_nothing(committed_app: Flask, full: int) -> None:
    other = create_app(
        settings_for(committed_app.config["SETTINGS"].database_url, audit_signing_key="another-key-" * 4)
    )
    record_some(other, 2)
    seal(other)
    dispose(other)
    report = verify(committed_app)
    assert report.is_well
    assert sorted(report.keys.values()) == [1, 3]


def test_erasure_breaks_no_seal(committed_app: Flask, person: Person, full: int) -> None:
    with committed_app.app_context():
        assert erasure.pseudonymise(person.id, actor=None) == 2
    report = verify(committed_app)
    assert report.is_well
    assert report.erased == 2
    query(committed_app, "DELETE FROM users_v2 WHERE id = %s", person.id)
    seal(committed_app)
    assert verify(committed_app).is_well


def test_the_deletion_of_a_person_breaks_no_seal(committed_app: Flask, person: Person, full: int) -> None:
    """P19: user_id goes with the account, by the foreign key."""
    query(committed_app, "DELETE FROM users_v2 WHERE id = %s", person.id)
    assert verify(committed_app).is_well


def test_a_row_taken_from_a_living_persons_record_is_found(committed_app: Flask, intruder: Intruder, full: int) -> None:
    intruder.run("UPDATE audit_logs SET user_id = NULL WHERE id = %s", full)
    assert found(in_database(committed_app)) == [("altered_row", full)]


def test_what_the_purge_took_is_told_and_is_no_finding(committed_app: Flask, full: int) -> None:
    store(committed_app, "request", 91, count=3)
    seal(committed_app)
    with committed_app.app_context():
        retention.purge(actor=None)
    seal(committed_app)
    report = verify(committed_app)
    assert report.is_well
    assert report.purged == 3
    assert "Purged under policy, 3 rows." in list(report.lines(report.oldest_unsealed))


def test_what_the_purge_took_cannot_be_put_back(committed_app: Flask, intruder: Intruder, full: int) -> None:
    store(committed_app, "request", 91)
    with committed_app.app_context():
        retention.purge(actor=None)
    ((row_id,),) = query(committed_app, "SELECT row_ids[1] FROM audit_seals WHERE kind = 'purge'")
    intruder.run(
        "INSERT INTO audit_logs (id, event_id, event_type, event_category, event_level, success, created_at, "
        r"commitment) VALUES (%s, 'again', 'a', 'request', 'info', true, now(), '\x00')",
        row_id,
    )
    assert ("inserted_row", row_id) in found(verify(committed_app))


def test_a_delete_that_only_pretends_to_be_the_purge_is_found(committed_app: Flask, full: int) -> None:
    with psycopg2.connect(libpq_url(committed_app.config["SETTINGS"].database_url)) as connection:
        cursor = connection.cursor()
        cursor.execute("""SET LOCAL audit.purge = '{"data": "2100-01-01T00:00:00Z"}'""")
        cursor.execute("DELETE FROM audit_logs WHERE id = %s", (full,))
    connection.close()
    assert found(verify(committed_app)) == [("missing_row", full)]


def test_several_processes_find_the_same(
    committed_app: Flask, intruder: Intruder, full: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verification, "WORTH_A_PROCESS", 0)
    monkeypatch.setattr(verification, "AT_ONCE", 1)
    intruder.run("UPDATE audit_logs SET event_type = 'other' WHERE id = %s", full)
    intruder.run("DELETE FROM audit_logs WHERE id = 12")
    assert found(in_database(committed_app)) == [("altered_row", full), ("missing_row", 12)]


def test_a_part_of_the_rows_can_be_verified_alone(committed_app: Flask, full: int) -> None:
    rows, chain = exported_rows(committed_app)[:4], exported_seals(committed_app)
    assert offline.verify_files(rows, chain, is_part=True).is_well
    assert offline.verify_files(rows, chain).counts == {"missing_row": 9}


@pytest.mark.parametrize("line", ["{", "[]", "7", "{}", '{"id": 1}', "null", '{"a": ' * 5000])
def test_a_line_that_cannot_be_read_is_a_finding(committed_app: Flask, full: int, line: str) -> None:
    rows, chain = exported_rows(committed_app), exported_seals(committed_app)
    report = offline.verify_files([*rows, line], chain)
    assert report.counts == {"unreadable": 1}
    assert "line 14" in report.findings[0].sentence
    assert offline.verify_files(rows, [*chain, line]).counts == {"unreadable": 1}


def test_a_row_that_is_in_the_file_twice_is_found(committed_app: Flask, full: int) -> None:
    rows = exported_rows(committed_app)
    assert offline.verify_files([*rows, rows[0]], exported_seals(committed_app)).counts == {"inserted_row": 1}


def test_an_export_may_write_moments_in_another_zone_and_add_keys(committed_app: Flask, full: int) -> None:
    rows = []
    for line in exported_rows(committed_app):
        values = evidence.read_line(line)
        for name in evidence.MOMENTS:
            values[name] = evidence.moment(values[name]).astimezone().isoformat()
        rows.append(evidence.json_text(values | {"sentence": "Somebody did something"}))
    assert offline.verify_files(rows, exported_seals(committed_app)).is_well


def proof_of(app: Flask, reference: str) -> dict:
    told = app.test_cli_runner().invoke(args=["audit", "prove", reference])
    assert told.exit_code == 0, told.output
    return evidence.read_line(told.output)


def test_a_proof_holds_for_its_row_and_for_nothing_else(committed_app: Flask, person: Person, full: int) -> None:
    for reference in ("full", str(full), "1", "13"):
        report = offline.check_proof(proof_of(committed_app, reference))
        assert report.is_well
        assert (report.rows, report.seals) == (1, 1)
    proof = proof_of(committed_app, "full")
    for field in (*evidence.SEALED_FIELDS, *evidence.PERSONAL_FIELDS, "salt", "user_id"):
        value = proof["row"][field]
        other = (
            not value
            if isinstance(value, bool)
            else value + 1
            if isinstance(value, int)
            else {}
            if isinstance(value, dict)
            else "2001-01-01T00:00:00+00:00"
            if field in evidence.MOMENTS
            else "00" * 32
        )
        report = offline.check_proof(proof | {"row": proof["row"] | {field: other}})
        assert report.counts == {"altered_row": 1}, field
    for part in ("root", "lists_hash", "previous_hash", "hash", "signature"):
        assert not offline.check_proof(proof | {"seal": proof["seal"] | {part: "11" * 32}}).is_well, part
    assert not offline.check_proof(proof | {"place": proof["place"] + 1}).is_well
    assert not offline.check_proof(proof | {"path": proof["path"][1:]}).is_well
    assert not offline.check_proof(proof | {"owner": "00" * 16}).is_well
    assert offline.check_proof(proof, trusted=["0" * 16]).counts == {"bad_signature": 1}
    assert offline.check_proof({"format": "other"}).counts == {"unreadable": 1}


def test_what_is_not_sealed_yet_or_not_there_has_no_proof(committed_app: Flask, full: int) -> None:
    record_some(committed_app)
    command = committed_app.test_cli_runner()
    told = command.invoke(args=["audit", "prove", "14"])
    assert told.exit_code == 1
    assert "not sealed yet" in told.output
    told = command.invoke(args=["audit", "prove", "no-such-event"])
    assert told.exit_code == 1
    assert "There is no such event." in told.output


def test_the_command_says_what_it_found_and_fails(committed_app: Flask, intruder: Intruder, full: int) -> None:
    command = committed_app.test_cli_runner()
    told = command.invoke(args=["audit", "verify"])
    assert told.exit_code == 0, told.output
    assert "Everything is as it was sealed." in told.output
    intruder.run("UPDATE audit_logs SET success = false WHERE id = %s", full)
    told = command.invoke(args=["audit", "verify"])
    assert told.exit_code == 1
    assert f"FOUND altered row {full} (event full), seal 1: a sealed field has another value" in told.output
    told = command.invoke(args=["audit", "verify", "--json"])
    assert told.exit_code == 1
    report = json.loads(told.output)
    assert report["ok"] is False
    assert report["findings"][0]["row_id"] == full


@pytest.mark.parametrize("arguments", [["--file", __file__], ["--seals", __file__], ["--anchor", "1:abc"]])
def test_half_a_command_is_refused_in_words(committed_app: Flask, arguments: list[str]) -> None:
    told = committed_app.test_cli_runner().invoke(args=["audit", "verify", *arguments])
    assert told.exit_code == 2
    assert "Error: " in told.output


def test_an_auditor_needs_no_database_and_no_settings(committed_app: Flask, full: int, tmp_path: Path) -> None:
    rows, chain, proof = tmp_path / "rows.ndjson", tmp_path / "seals.ndjson", tmp_path / "proof.json"
    rows.write_text("\n".join(exported_rows(committed_app)))
    written = committed_app.test_cli_runner().invoke(args=["audit", "export", "--seals", "--output", str(chain)])
    assert written.exit_code == 0, written.output
    proof.write_text(evidence.json_text(proof_of(committed_app, "full")))
    environment = {name: value for name, value in os.environ.items() if name not in ("DATABASE_URL", "SECRET_KEY")}

    def flask(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "flask", "--app", f"{ROOT / 'wsgi.py'}", "audit", *arguments]
        return subprocess.run(
            command,
            cwd=tmp_path,
            env=environment | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )

    done = flask("verify", "--file", str(rows), "--seals", str(chain))
    assert done.returncode == 0, done.stderr
    assert "Everything is as it was sealed." in done.stdout
    rows.write_text(rows.read_text().replace('"POST"', '"PUT"'))
    done = flask("verify", f"--file={rows}", "--seals", str(chain))
    assert done.returncode == 1
    assert f"altered row {full} (event full)" in done.stdout
    assert flask("verify", "--proof", str(proof)).returncode == 0
    done = flask("seal")
    assert done.returncode == 1
    assert "DATABASE_URL" in done.stderr


def test_a_sealed_export_is_well_whatever_is_sealed_and_purged_while_it_is_made(
    committed_app: Flask, full: int
) -> None:
    store(committed_app, "request", 91, count=3)
    seal(committed_app)
    with committed_app.app_context():
        begun = export.begin(Wanted("ndjson", is_sealed=True), actor=None, scope=nullcontext)
    record_some(committed_app, 2)
    with committed_app.app_context():
        retention.purge(actor=None)
    seal(committed_app)
    with committed_app.app_context():
        chain, rows = (b"".join(part).decode().splitlines() for part in (begun.seals(), begun.chunks()))
    report = offline.verify_files(rows, chain)
    assert report.is_well, report.findings
    assert (report.seals, report.rows, report.purged) == (4, 16, 0)
    assert not offline.verify_files(rows, exported_seals(committed_app)).is_well, "which later seals would make of it"


def test_the_command_writes_a_pair_of_files_that_stays_well(committed_app: Flask, full: int, tmp_path: Path) -> None:
    command = committed_app.test_cli_runner()
    rows, chain = tmp_path / "rows.ndjson", tmp_path / "rows.ndjson.seals"
    told = command.invoke(args=["audit", "export", "--sealed", "--output", str(rows)])
    assert told.exit_code == 0, told.output
    seal(committed_app)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.ndjson", "rows.ndjson.seals"]
    told = command.invoke(args=["audit", "verify", "--file", str(rows), "--seals", str(chain)])
    assert told.exit_code == 0, told.output
    assert "Everything is as it was sealed." in told.output


def test_the_export_of_the_seals_is_on_record(committed_app: Flask, full: int, tmp_path: Path) -> None:
    command = committed_app.test_cli_runner()
    told = command.invoke(args=["audit", "export", "--seals", "--output", str(tmp_path / "chain")])
    assert told.exit_code == 0, told.output
    assert [path.name for path in tmp_path.iterdir()] == ["chain"]
    exports = query(
        committed_app,
        "SELECT event_type, success, event_metadata->>'what', event_metadata->'events', event_metadata->'bytes' "
        "FROM audit_logs WHERE event_type LIKE 'data_export%%' ORDER BY id",
    )
    size = (tmp_path / "chain").stat().st_size
    assert exports == [("data_export", True, "seals", None, None), ("data_export_ended", True, None, None, size)]
    with committed_app.app_context():
        told_of = [event.sentence for event in queries.search(Filters(category="data"), limit=2).events]
    assert "exported the seals of the audit log" in told_of[1]
    told = command.invoke(args=["audit", "export", "--seals", "--output", str(tmp_path / "no" / "folder")])
    assert told.exit_code == 1
    assert "The export is not complete." in told.output
    assert isinstance(told.exception, SystemExit), "no traceback"
    told = command.invoke(args=["audit", "export", "--seals", "--sealed"])
    assert told.exit_code == 2


def forge(app: Flask, intruder: Intruder, key) -> None:
    """Make the chain fit what is stored now, as somebody with all rights on the database would."""
    previous = evidence.FIRST_PREVIOUS
    for line in exported_seals(app):
        values = json.loads(line)
        if "public_key" in values:
            continue
        link = evidence.Seal.from_json(values)
        rows = {
            row[0]: seals.row_of(row)
            for row in query(app, f"SELECT {seals.ROW_COLUMNS} FROM audit_logs WHERE id = ANY(%s)", list(link.row_ids))
        }
        owners = [evidence.owner_mark(row_id, rows[row_id].user_id) for row_id in link.row_ids]
        leaves = b"".join(
            evidence.leaf_hash(rows[row_id].sealed_text, owner)
            for row_id, owner in zip(link.row_ids, owners, strict=True)
        )
        made = replace(link, leaves=leaves, root=evidence.tree_root(leaves), previous_hash=previous)
        if key:
            made = made.signed(key)
            public = key.public_key().public_bytes_raw()
            intruder.run("INSERT INTO audit_keys VALUES (%s, %s, now()) ON CONFLICT DO NOTHING", made.key_id, public)
        else:
            made = replace(made, hash=evidence.sha256(made.statement()).digest())
        previous = made.hash
        intruder.run(
            "UPDATE audit_seals SET leaves = %s, root = %s, previous_hash = %s, hash = %s, key_id = %s, signature = %s "
            "WHERE number = %s",
            *(made.leaves, made.root, made.previous_hash, made.hash, made.key_id, made.signature, made.number),
        )
