"""The landing page: what this is, for whoever comes by."""

from flask import Blueprint, render_template

from capecontrol.auth.identity import public

pages = Blueprint("landing", __name__)


@pages.get("/")
@public
def show() -> str:
    """Say what this is, and lead to an account."""
    return render_template("landing/show.html")
