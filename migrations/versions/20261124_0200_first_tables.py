"""The first tables: people, sessions, tokens, conversations, the audit log.

Refuses a database that holds tables of ours without an Alembic version: an inherited one, to be adopted with care.
"""

from uuid import uuid4

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "first_tables"
down_revision = None
branch_labels = None
depends_on = None


OURS = {
    "users",
    "users_v2",
    "user_profiles",
    "user_sessions",
    "api_tokens",
    "conversations",
    "conversation_messages",
    "audit_logs",
}


def upgrade() -> None:
    _refuse_inherited_tables()
    op.create_table(
        "installation",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_installation")),
    )
    op.create_table(
        "rate_limit_counters",
        sa.Column("bucket", sa.Text(), nullable=False),
        sa.Column("window", sa.BigInteger(), nullable=False),
        sa.Column("hits", sa.Integer(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("bucket", "window", name=op.f("pk_rate_limit_counters")),
        prefixes=["UNLOGGED"],
    )
    op.create_index(op.f("ix_rate_limit_counters_expires_at"), "rate_limit_counters", ["expires_at"], unique=False)
    op.create_table(
        "users_v2",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("email", sa.Text(), nullable=False),
        sa.Column("email_key", sa.Text(), nullable=False),
        sa.Column("email_verified_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("password_hash", sa.Text(), nullable=True),
        sa.Column("user_role", sa.Text(), nullable=False),
        sa.Column("full_name", sa.Text(), nullable=True),
        sa.Column("company_name", sa.Text(), nullable=True),
        sa.Column("industry", sa.Text(), nullable=True),
        sa.Column("project_budget", sa.Text(), nullable=True),
        sa.Column("skills", sa.Text(), nullable=True),
        sa.Column("portfolio", sa.Text(), nullable=True),
        sa.Column("github", sa.Text(), nullable=True),
        sa.Column("phone", sa.Text(), nullable=True),
        sa.Column("website", sa.Text(), nullable=True),
        sa.Column("experience", sa.Text(), nullable=True),
        sa.Column("profile", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("tos_accepted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("tos_source", sa.Text(), nullable=True),
        sa.Column("is_active", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("last_login_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("user_role IN ('client', 'developer', 'admin')", name=op.f("ck_users_v2_user_role_known")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_users_v2")),
        sa.UniqueConstraint("email_key", name=op.f("uq_users_v2_email_key")),
    )
    op.create_table(
        "api_tokens",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("token_hash", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users_v2.id"], name=op.f("fk_api_tokens_user_id_users_v2"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_tokens")),
        sa.UniqueConstraint("token_hash", name=op.f("uq_api_tokens_token_hash")),
    )
    op.create_index(op.f("ix_api_tokens_user_id_created_at"), "api_tokens", ["user_id", "created_at"], unique=False)
    op.create_table(
        "audit_logs",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("event_id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=True),
        sa.Column("actor_ref", sa.Text(), nullable=True),
        sa.Column("user_email", sa.Text(), nullable=True),
        sa.Column("user_role", sa.Text(), nullable=True),
        sa.Column("subject_id", sa.Text(), nullable=True),
        sa.Column("event_type", sa.Text(), nullable=False),
        sa.Column("event_category", sa.Text(), nullable=False),
        sa.Column("event_level", sa.Text(), nullable=False),
        sa.Column("event_description", sa.Text(), nullable=True),
        sa.Column("ip_address", sa.Text(), nullable=True),
        sa.Column("user_agent", sa.Text(), nullable=True),
        sa.Column("endpoint", sa.Text(), nullable=True),
        sa.Column("http_method", sa.Text(), nullable=True),
        sa.Column("request_id", sa.Text(), nullable=True),
        sa.Column("session_id", sa.Text(), nullable=True),
        sa.Column("status_code", sa.Integer(), nullable=True),
        sa.Column("response_time_ms", sa.Integer(), nullable=True),
        sa.Column("success", sa.Boolean(), nullable=False),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.Column(
            "event_metadata",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
        sa.Column("risk_score", sa.Integer(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column(
            "recorded_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users_v2.id"], name=op.f("fk_audit_logs_user_id_users_v2"), ondelete="SET NULL"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_logs")),
        sa.UniqueConstraint("event_id", name=op.f("uq_audit_logs_event_id")),
    )
    op.create_index(op.f("ix_audit_logs_created_at_event_id"), "audit_logs", ["created_at", "event_id"], unique=False)
    op.create_index(
        op.f("ix_audit_logs_event_type_created_at_event_id"),
        "audit_logs",
        ["event_type", "created_at", "event_id"],
        unique=False,
    )
    op.create_index(
        "ix_audit_logs_refused",
        "audit_logs",
        ["created_at", "event_id"],
        unique=False,
        postgresql_where=sa.text("NOT success"),
    )
    op.create_index(
        "ix_audit_logs_email",
        "audit_logs",
        [sa.text("lower(user_email)"), "created_at", "event_id"],
        unique=False,
    )
    op.create_index(
        op.f("ix_audit_logs_user_id_created_at_event_id"),
        "audit_logs",
        ["user_id", "created_at", "event_id"],
        unique=False,
    )
    op.create_table(
        "conversations",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), server_default="active", nullable=False),
        sa.Column("status_before_delete", sa.Text(), nullable=True),
        sa.Column("total_messages", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("ai_provider", sa.Text(), nullable=True),
        sa.Column("model_name", sa.Text(), nullable=True),
        sa.Column("idempotency_key", sa.Text(), nullable=True),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("status IN ('active', 'archived', 'deleted')", name=op.f("ck_conversations_status_known")),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users_v2.id"], name=op.f("fk_conversations_user_id_users_v2"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_conversations")),
    )
    op.create_index(
        op.f("ix_conversations_user_id_status_updated_at_id"),
        "conversations",
        ["user_id", "status", "updated_at", "id"],
        unique=False,
    )
    op.create_index(
        "uq_conversations_user_id_idempotency_key",
        "conversations",
        ["user_id", "idempotency_key"],
        unique=True,
        postgresql_where=sa.text("idempotency_key IS NOT NULL"),
    )
    op.create_table(
        "idempotency_keys",
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("key_hash", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["user_id"],
            ["users_v2.id"],
            name=op.f("fk_idempotency_keys_user_id_users_v2"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("scope", "key_hash", name=op.f("pk_idempotency_keys")),
    )
    op.create_index(op.f("ix_idempotency_keys_created_at"), "idempotency_keys", ["created_at"], unique=False)
    op.create_index(op.f("ix_idempotency_keys_user_id"), "idempotency_keys", ["user_id"], unique=False)
    op.create_table(
        "user_sessions",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("token_hash", sa.Text(), nullable=False),
        sa.Column("is_remembered", sa.Boolean(), nullable=False),
        sa.Column("ip_address", sa.Text(), nullable=True),
        sa.Column("user_agent", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users_v2.id"], name=op.f("fk_user_sessions_user_id_users_v2"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_user_sessions")),
        sa.UniqueConstraint("token_hash", name=op.f("uq_user_sessions_token_hash")),
    )
    op.create_index(
        op.f("ix_user_sessions_user_id_created_at"), "user_sessions", ["user_id", "created_at"], unique=False
    )
    op.create_table(
        "conversation_messages",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("conversation_id", sa.Text(), nullable=False),
        sa.Column("parent_id", sa.Text(), nullable=True),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), server_default="complete", nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("tokens_used", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("ai_provider", sa.Text(), nullable=True),
        sa.Column("model_name", sa.Text(), nullable=True),
        sa.Column("response_time_ms", sa.Integer(), nullable=True),
        sa.Column("idempotency_key", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("completed_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "role IN ('user', 'assistant', 'system', 'function')",
            name=op.f("ck_conversation_messages_role_known"),
        ),
        sa.CheckConstraint(
            "status IN ('queued', 'streaming', 'complete', 'stopped', 'interrupted', 'failed')",
            name=op.f("ck_conversation_messages_status_known"),
        ),
        sa.ForeignKeyConstraint(
            ["conversation_id"],
            ["conversations.id"],
            name=op.f("fk_conversation_messages_conversation_id_conversations"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["parent_id"],
            ["conversation_messages.id"],
            name=op.f("fk_conversation_messages_parent_id_conversation_messages"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_conversation_messages")),
        sa.UniqueConstraint(
            "conversation_id",
            "idempotency_key",
            name=op.f("uq_conversation_messages_conversation_id_idempotency_key"),
        ),
    )
    op.create_index(
        op.f("ix_conversation_messages_conversation_id_created_at_id"),
        "conversation_messages",
        ["conversation_id", "created_at", "id"],
        unique=False,
    )
    op.create_index(op.f("ix_conversation_messages_parent_id"), "conversation_messages", ["parent_id"], unique=False)
    op.create_index(
        "ix_conversation_messages_unfinished",
        "conversation_messages",
        ["created_at"],
        unique=False,
        postgresql_where=sa.text("status IN ('queued', 'streaming')"),
    )
    op.execute(sa.text("INSERT INTO installation (id) VALUES (:id)").bindparams(id=str(uuid4())))


def _refuse_inherited_tables() -> None:
    found = sorted(OURS & set(sa.inspect(op.get_bind()).get_table_names()))
    if found:
        raise SystemExit(
            f"This database already holds {', '.join(found)} but no migration of ours, so it was inherited. "
            "Nothing was changed. Adopt it with `flask --app wsgi legacy apply`."
        )


def downgrade() -> None:
    op.drop_index(
        "ix_conversation_messages_unfinished",
        table_name="conversation_messages",
        postgresql_where=sa.text("status IN ('queued', 'streaming')"),
    )
    op.drop_index(op.f("ix_conversation_messages_parent_id"), table_name="conversation_messages")
    op.drop_index(op.f("ix_conversation_messages_conversation_id_created_at_id"), table_name="conversation_messages")
    op.drop_table("conversation_messages")
    op.drop_index(op.f("ix_user_sessions_user_id_created_at"), table_name="user_sessions")
    op.drop_table("user_sessions")
    op.drop_index(op.f("ix_idempotency_keys_user_id"), table_name="idempotency_keys")
    op.drop_index(op.f("ix_idempotency_keys_created_at"), table_name="idempotency_keys")
    op.drop_table("idempotency_keys")
    op.drop_index(
        "uq_conversations_user_id_idempotency_key",
        table_name="conversations",
        postgresql_where=sa.text("idempotency_key IS NOT NULL"),
    )
    op.drop_index(op.f("ix_conversations_user_id_status_updated_at_id"), table_name="conversations")
    op.drop_table("conversations")
    op.drop_index(op.f("ix_audit_logs_user_id_created_at_event_id"), table_name="audit_logs")
    op.drop_index("ix_audit_logs_email", table_name="audit_logs")
    op.drop_index("ix_audit_logs_refused", table_name="audit_logs", postgresql_where=sa.text("NOT success"))
    op.drop_index(op.f("ix_audit_logs_event_type_created_at_event_id"), table_name="audit_logs")
    op.drop_index(op.f("ix_audit_logs_created_at_event_id"), table_name="audit_logs")
    op.drop_table("audit_logs")
    op.drop_index(op.f("ix_api_tokens_user_id_created_at"), table_name="api_tokens")
    op.drop_table("api_tokens")
    op.drop_table("users_v2")
    op.drop_index(op.f("ix_rate_limit_counters_expires_at"), table_name="rate_limit_counters")
    op.drop_table("rate_limit_counters")
    op.drop_table("installation")
