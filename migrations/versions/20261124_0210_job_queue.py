"""The job queue's tables: Procrastinate's own SQL, for the version in requirements.txt.

Read from the package because it is its maker's schema, not ours; a later version brings its own migration scripts,
which then become a migration here. Sent on the raw cursor: the SQL holds percent signs that no driver may touch.
"""

from alembic import op
from procrastinate.schema import SchemaManager

revision = "job_queue"
down_revision = "first_tables"
branch_labels = None
depends_on = None

_OBJECTS = """
DO $$
DECLARE thing record;
BEGIN
    FOR thing IN SELECT tablename AS name FROM pg_tables
        WHERE schemaname = current_schema() AND tablename LIKE 'procrastinate\\_%'
    LOOP EXECUTE format('DROP TABLE %I CASCADE', thing.name); END LOOP;
    FOR thing IN SELECT oid::regprocedure AS name FROM pg_proc
        WHERE pronamespace = current_schema()::regnamespace AND proname LIKE 'procrastinate\\_%'
    LOOP EXECUTE format('DROP ROUTINE %s CASCADE', thing.name); END LOOP;
    FOR thing IN SELECT typname AS name FROM pg_type
        WHERE typnamespace = current_schema()::regnamespace AND typname LIKE 'procrastinate\\_%'
          AND typtype IN ('e', 'c')
    LOOP EXECUTE format('DROP TYPE %I CASCADE', thing.name); END LOOP;
END $$
"""


def upgrade() -> None:
    _run(SchemaManager.get_schema())


def downgrade() -> None:
    _run(_OBJECTS)


def _run(sql: str) -> None:
    cursor = op.get_bind().connection.cursor()
    cursor.execute(sql)
    cursor.close()
