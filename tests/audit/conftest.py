"""The tests of the record replay when they say so, and not a second later by themselves."""

import pytest
from flask import Flask

from capecontrol import each_second


@pytest.fixture
def committed_app(committed_app: Flask) -> Flask:
    """Return the committed application without its thread."""
    each_second.of(committed_app).close()
    return committed_app
