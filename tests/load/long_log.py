"""A long audit log to measure on: people and what they did over the last 90 days, as a vacuum leaves it."""

from contextlib import closing

import psycopg2

from capecontrol.config import libpq_url
from tests.load.figures import tell_progress
from tests.load.product import Database

DAYS = 90
PEOPLE = 20_000
ADDRESSES = 5_000
BATCH = 500_000

_PEOPLE = (
    "INSERT INTO users_v2 (id, email, email_key, full_name, user_role) SELECT 'person-' || n, "
    "'person-' || n || '@example.com', 'person-' || n || '@example.com', 'Ines Example ' || n, 'client' "
    "FROM generate_series(0, %s - 1) AS n ON CONFLICT DO NOTHING"
)
# Few people do much and many do little; six in a hundred events are refused; some events have nobody and no address.
# The commitment is made here, as the recorder makes it, and not by the trigger for whoever brings none.
_EVENTS = """
INSERT INTO audit_logs (event_id, user_id, actor_ref, user_email, user_role, subject_id, event_type, event_category,
  event_level, ip_address, user_agent, endpoint, http_method, request_id, session_id, success, error_message,
  event_metadata, created_at, recorded_at, salt, commitment)
SELECT overlay(overlay(overlay(overlay(lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0')
    || '7' || substr(md5(n::text), 1, 19) placing '-' from 9 for 0) placing '-' from 14 for 0)
    placing '-' from 19 for 0) placing '-' from 24 for 0),
  actor, actor, email, CASE WHEN actor IS NOT NULL THEN 'client' END,
  md5('subject' || n / 7), kind[1], kind[2], CASE WHEN is_done THEN 'info' ELSE 'warning' END, ip, agent,
  'conversations.show', 'POST', md5('request' || n / 2), md5('session' || n / 20 || person), is_done, refusal,
  jsonb_build_object('message_id', md5(n::text), 'characters', n %% 500), at, at + interval '30 milliseconds',
  salt, sha256(salt || convert_to(json_build_array(email, ip, agent, NULL, refusal)::text, 'UTF8'))
FROM (
  SELECT n, at, person, kind, kind[3] = 'done' AS is_done, decode(md5(n::text || 'salt'), 'hex') AS salt,
    CASE WHEN kind[3] <> 'stranger' THEN 'person-' || person END AS actor,
    'person-' || person || '@example.com' AS email,
    CASE WHEN n %% 9 > 0 THEN '10.' || address / 250 || '.0.' || address %% 250 END AS ip,
    CASE WHEN kind[3] <> 'done' THEN 'That was refused.' END AS refusal,
    'Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0 Safari/537.36' AS agent
  FROM (
    SELECT n, start + (stop - start) * (n::float8 / total) AS at,
      floor(%(people)s * power(random(), 3))::int AS person, floor(%(addresses)s * power(random(), 2))::int AS address,
      (CASE
        WHEN share < 0.30 THEN ARRAY['ai_prompt_submitted', 'ai_service', 'done']
        WHEN share < 0.58 THEN ARRAY['ai_response_generated', 'ai_service', 'done']
        WHEN share < 0.74 THEN ARRAY['user_login', 'authentication', 'done']
        WHEN share < 0.84 THEN ARRAY['conversation_started', 'data', 'done']
        WHEN share < 0.90 THEN ARRAY['user_logout', 'authentication', 'done']
        WHEN share < 0.945 THEN ARRAY['user_login_failed', 'authentication', 'stranger']
        WHEN share < 0.955 THEN ARRAY['rate_limit_exceeded', 'security', 'stranger']
        WHEN share < 0.96 THEN ARRAY['access_denied', 'authorization', 'refused']
        WHEN share < 0.98 THEN ARRAY['user_registration', 'authentication', 'done']
        WHEN share < 0.99 THEN ARRAY['conversation_archived', 'data', 'done']
        WHEN share < 0.9999 THEN ARRAY['profile_updated', 'profile', 'done']
        ELSE ARRAY['role_changed', 'admin', 'done'] END) AS kind
    FROM (SELECT n, random() AS share, %(total)s::float8 AS total, now() - %(days)s * interval '1 day' AS start,
      now() AS stop FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS n) AS drawn
  ) AS dated
) AS made
"""


def fill(database: Database, count: int, *, after: int = 0) -> None:
    """Write the events after so many up to so many, over the last 90 days, as they would be after a vacuum."""
    database.ask(_PEOPLE, PEOPLE)
    indexes = database.ask(
        "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = 'audit_logs' AND indexname LIKE 'ix\\_%%'"
    )
    for name, _ in indexes:
        database.ask(f'DROP INDEX "{name}"')
    with closing(psycopg2.connect(libpq_url(database.url))) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            shape = {"people": PEOPLE, "addresses": ADDRESSES, "total": count, "days": DAYS}
            for first in range(after + 1, count + 1, BATCH):
                last = min(count, first + BATCH - 1)
                cursor.execute(_EVENTS, shape | {"first": first, "last": last})
                tell_progress(f"{last:,} of {count:,} events")
            for _, definition in indexes:
                cursor.execute(definition)
            cursor.execute("VACUUM ANALYZE audit_logs")
            cursor.execute("VACUUM ANALYZE users_v2")
