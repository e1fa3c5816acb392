"""The points of an act and of a replay at which a drill kills the acting process, and how an act is doomed."""

POINTS = (
    "before the event",
    "event inserted",
    "before the spool",
    "spooled",
    "printed",
    "committed",
    "replay inserted",
)

DOOMED = "doomed"
EVERY_DOOMED = 20
"""One act in so many fails at its commit."""
