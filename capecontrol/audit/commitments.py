"""What an event commits to when it is frozen: its personal fields, hashed with a salt that can be forgotten.

Another value of such a field is tampering; NULL together with its salt is erasure, and no seal breaks by it.
"""

from collections.abc import Mapping
from typing import Any

from capecontrol import ids
from capecontrol.audit import evidence


def commitment_of(frozen: Mapping[str, Any]) -> dict[str, str]:
    """Return the columns `salt` and `commitment` of an event whose personal fields have their final values.

    As PostgreSQL's text of bytes, which goes through JSON too: a spooled line carries it to the table unchanged.
    """
    salt = ids.new_salt()
    personal = {name: frozen.get(name) for name in evidence.PERSONAL_FIELDS}  # an older line may lack one
    return {"salt": rf"\x{salt.hex()}", "commitment": rf"\x{evidence.commitment(salt, personal).hex()}"}
