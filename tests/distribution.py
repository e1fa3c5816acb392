"""How a run on several processes shares out the tests."""

import re
from functools import cache

from xdist.scheduler import LoadScopeScheduling

from tests.live_server import REPOSITORY

_SHARING = re.compile(r"\blive_server[:,)]|scope=\"module\"")


class ModulesWithServersTogether(LoadScopeScheduling):
    """Gives one process all tests of a module that share a server or a database, which would be made in each else.

    These modules come first, the longest before the others; every other test goes to whoever is free, so that all
    processes end at the same time.
    """

    def _split_scope(self, nodeid: str) -> str:
        module = nodeid.partition("::")[0]
        return module if _shares(module) else nodeid


@cache
def _shares(module: str) -> bool:
    return _SHARING.search((REPOSITORY / module).read_text()) is not None
