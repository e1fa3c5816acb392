"""The points of a registration at which a drill kills the web process, and the header that names one."""

HEADER = "X-Drill-Kill-At"

# In the order in which a registration comes to them; True where the account must exist when the process is killed.
POINTS = {
    "request read": False,
    "before the hash": False,
    "after the hash": False,
    "account inserted": False,
    "token inserted": False,
    "event inserted": False,
    "before the commit": False,
    "after the commit": True,
    "answer made": True,
    "answer half sent": True,
}
