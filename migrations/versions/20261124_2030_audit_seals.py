"""Tamper evidence: commitments and transaction numbers in the record, seals, keys, and triggers against changes."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "audit_seals"
down_revision = "registration_tickets"
branch_labels = None
depends_on = None


class Xid8(sa.types.UserDefinedType):
    """PostgreSQL's 64-bit transaction number."""

    cache_ok = True

    def get_col_spec(self, **_: object) -> str:
        return "xid8"


# The canonical personal fields, as audit/evidence.py writes them too.
PERSONAL = "json_build_array({0}user_email, {0}ip_address, {0}user_agent, {0}event_description, {0}error_message)::text"
SALT = "uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())"

COMMIT = f"""
CREATE FUNCTION audit_logs_commit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.salt := {SALT};
    NEW.commitment := sha256(NEW.salt || convert_to({PERSONAL.format("NEW.")}, 'UTF8'));
    RETURN NEW;
END $$
"""

# `*=` compares the stored bytes: for `=`, 1.0 and 1.00 in the details would be the same.
PROTECT_LOGS = """
CREATE FUNCTION audit_logs_protect() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    allowed audit_logs%ROWTYPE;
    periods text;
BEGIN
    IF TG_OP = 'UPDATE' THEN
        allowed := OLD;
        IF OLD.user_id IS NOT NULL AND NEW.user_id IS NULL THEN
            -- ON DELETE SET NULL: the person is gone already when it comes here.
            allowed.user_id := NULL;
            IF NEW *= allowed AND NOT EXISTS (SELECT FROM users_v2 WHERE id = OLD.user_id) THEN
                RETURN NEW;
            END IF;
        ELSE
            -- Pseudonymisation: everything personal and its salt, all together, nothing else.
            allowed.user_email := NULL;
            allowed.ip_address := NULL;
            allowed.user_agent := NULL;
            allowed.event_description := NULL;
            allowed.error_message := NULL;
            allowed.salt := NULL;
            IF NEW *= allowed THEN
                RETURN NEW;
            END IF;
        END IF;
    ELSIF TG_OP = 'DELETE' THEN
        -- The purge says, for its own transaction only, before which moment each category has had its time.
        periods := nullif(current_setting('audit.purge', true), '');
        IF OLD.created_at < (periods::jsonb ->> OLD.event_category)::timestamptz THEN
            RETURN OLD;
        END IF;
    END IF;
    RAISE EXCEPTION 'The audit log is only ever added to: % refused', TG_OP;
END $$
"""

PROTECT_SEALS = """
CREATE FUNCTION audit_seals_protect() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is only ever added to: % refused', TG_TABLE_NAME, TG_OP;
END $$
"""

TRIGGERS = {
    "tg_audit_logs_commit": "BEFORE INSERT ON audit_logs FOR EACH ROW WHEN (NEW.commitment IS NULL) "
    "EXECUTE FUNCTION audit_logs_commit()",
    "tg_audit_logs_change": "BEFORE UPDATE OR DELETE ON audit_logs FOR EACH ROW EXECUTE FUNCTION audit_logs_protect()",
    "tg_audit_logs_truncate": "BEFORE TRUNCATE ON audit_logs FOR EACH STATEMENT EXECUTE FUNCTION audit_logs_protect()",
    "tg_audit_seals_change": "BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_seals FOR EACH STATEMENT "
    "EXECUTE FUNCTION audit_seals_protect()",
    "tg_audit_keys_change": "BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_keys FOR EACH STATEMENT "
    "EXECUTE FUNCTION audit_seals_protect()",
}


def upgrade() -> None:
    # The default is evaluated once for the rows that are there: they count as stored by this migration.
    op.add_column(
        "audit_logs",
        sa.Column("stored_xid", Xid8(), server_default=sa.text("pg_current_xact_id()"), nullable=False),
    )
    op.add_column("audit_logs", sa.Column("salt", sa.LargeBinary(), nullable=True))
    op.add_column("audit_logs", sa.Column("commitment", sa.LargeBinary(), nullable=True))
    op.execute(f"UPDATE audit_logs SET salt = {SALT}")  # noqa: S608 -- our own words
    op.execute(
        f"UPDATE audit_logs SET commitment = sha256(salt || convert_to({PERSONAL.format('')}, 'UTF8'))"  # noqa: S608
    )
    op.alter_column("audit_logs", "commitment", nullable=False)
    op.create_index(op.f("ix_audit_logs_stored_xid_id"), "audit_logs", ["stored_xid", "id"], unique=False)
    op.create_table(
        "audit_keys",
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("public_key", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("key_id", name=op.f("pk_audit_keys")),
    )
    op.create_table(
        "audit_seals",
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("installation", sa.Text(), nullable=False),
        sa.Column("cluster", sa.Text(), nullable=False),
        sa.Column("first_xid", Xid8(), nullable=False),
        sa.Column("last_xid", Xid8(), nullable=False),
        sa.Column("next_xid", Xid8(), nullable=False),
        sa.Column("next_id", sa.BigInteger(), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("row_ids", postgresql.ARRAY(sa.BigInteger()), nullable=False),
        sa.Column("leaves", sa.LargeBinary(), nullable=False),
        sa.Column("owners", sa.LargeBinary(), nullable=False),
        sa.Column("root", sa.LargeBinary(), nullable=False),
        sa.Column("purged", sa.Text(), nullable=True),
        sa.Column("previous_hash", sa.LargeBinary(), nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("signature", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("kind IN ('rows', 'adopted', 'purge')", name=op.f("ck_audit_seals_kind_known")),
        sa.ForeignKeyConstraint(["key_id"], ["audit_keys.key_id"], name=op.f("fk_audit_seals_key_id_audit_keys")),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_audit_seals")),
    )
    # Hashes and numbers do not compress; trying to costs time on every seal.
    op.execute("ALTER TABLE audit_seals ALTER COLUMN leaves SET STORAGE EXTERNAL")
    op.execute("ALTER TABLE audit_seals ALTER COLUMN owners SET STORAGE EXTERNAL")
    for function in (COMMIT, PROTECT_LOGS, PROTECT_SEALS):
        op.execute(function)
    for name, rule in TRIGGERS.items():
        op.execute(f"CREATE TRIGGER {name} {rule}")


def downgrade() -> None:
    op.drop_table("audit_seals")
    op.drop_table("audit_keys")
    for name in ("tg_audit_logs_commit", "tg_audit_logs_change", "tg_audit_logs_truncate"):
        op.execute(f"DROP TRIGGER {name} ON audit_logs")
    for function in ("audit_logs_commit", "audit_logs_protect", "audit_seals_protect"):
        op.execute(f"DROP FUNCTION {function}()")
    op.drop_index(op.f("ix_audit_logs_stored_xid_id"), table_name="audit_logs")
    op.drop_column("audit_logs", "commitment")
    op.drop_column("audit_logs", "salt")
    op.drop_column("audit_logs", "stored_xid")
