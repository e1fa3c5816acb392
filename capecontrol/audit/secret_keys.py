"""Details under names of secrets, which an inherited row may hold: they leave the table by no page, answer or file.

Only what is made to be verified has them (seals.py): without them a row is not what was sealed.
"""

from collections.abc import Mapping
from typing import Any

# Keys that hold no detail of ours, wherever in the details they stand.
SECRET_KEYS = (
    "access_token",
    "accessToken",
    "api_key",
    "authorization",
    "cookie",
    "hashed_password",
    "new_password",
    "password",
    "password_hash",
    "refresh_token",
    "reset_token",
    "secret",
    "session_token",
    "token",
)

_NAMES = ", ".join(f"'{key}'" for key in SECRET_KEYS)
_IS_THERE = f"""$.** ? (@.type() == "object" && ({" || ".join(f"exists(@.{key})" for key in SECRET_KEYS)}))"""


def without_secrets(details: Any) -> Any:
    """Return details without any key that names a secret, however deep it stands."""
    if isinstance(details, Mapping):
        return {name: without_secrets(value) for name, value in details.items() if name not in SECRET_KEYS}
    if isinstance(details, list):
        return [without_secrets(value) for value in details]
    return details


def without_secrets_sql(details: str) -> str:
    """Return the SQL of the same, for a column of type jsonb.

    Rows are taken apart only where such a key is found, and looked into deeply only where an object stands within: a
    file of millions must not wait for it.
    """
    has_object_within = f"strpos(substr({details}::text, 2), '{{') > 0"
    is_there = f"{has_object_within} AND jsonb_path_exists({details}, '{_IS_THERE}')"
    return f"""CASE WHEN {details} ?| ARRAY[{_NAMES}] OR {is_there} THEN (
WITH RECURSIVE part(path, value) AS (
    SELECT ARRAY[]::text[], {details}
    UNION ALL
    SELECT part.path || below.name, below.value FROM part CROSS JOIN LATERAL (
        SELECT * FROM jsonb_each(CASE jsonb_typeof(part.value) WHEN 'object' THEN part.value ELSE '{{}}' END)
        UNION ALL
        SELECT (place - 1)::text, value
        FROM jsonb_array_elements(CASE jsonb_typeof(part.value) WHEN 'array' THEN part.value ELSE '[]' END)
        WITH ORDINALITY AS element(value, place)
    ) AS below(name, value)
), secret(path, place) AS (
    SELECT path, row_number() OVER () FROM part WHERE path[cardinality(path)] IN ({_NAMES})
), rest(value, place) AS (
    SELECT {details}, CAST(0 AS bigint)
    UNION ALL
    SELECT rest.value #- secret.path, secret.place FROM rest JOIN secret ON secret.place = rest.place + 1
)
SELECT value FROM rest ORDER BY place DESC LIMIT 1) ELSE {details} END"""  # noqa: S608 -- our own names only
