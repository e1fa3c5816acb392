"""Who acts: the frozen identity that every command receives."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Actor:
    """A person as commands and the record know them: plain values, nothing that could load later (R1)."""

    id: str
    email: str
    role: str
    name: str | None = None
    session_id: str | None = None

    @property
    def is_admin(self) -> bool:
        """Whether the person may read everybody's record."""
        return self.role == "admin"
