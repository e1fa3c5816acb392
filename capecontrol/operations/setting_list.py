"""The settings as a table for people, read from `config.py` so that the list cannot rot."""

from typing import Any

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from capecontrol.config import Settings


def markdown_table() -> str:
    """Return every setting with its default and meaning as a Markdown table."""
    rows = [f"| `{name.upper()}` | {_default(field)} | {field.description} |" for name, field in _fields().items()]
    return "\n".join(("| setting | default | meaning |", "|---|---|---|", *rows))


def is_in(text: str) -> bool:
    """Say whether a text holds the table as it is now."""
    return markdown_table() in text.replace("\r\n", "\n")


def _fields() -> dict[str, FieldInfo]:
    return Settings.model_fields


def _default(field: FieldInfo) -> str:
    value: Any = field.get_default(call_default_factory=True, validated_data={})
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if value in ("", None, []):
        return ""
    return f"`{int(value) if isinstance(value, bool) else value}`"
