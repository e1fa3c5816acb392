"""The least that a Flask route can be, under the product's own server configuration: what its e-mail check is
compared with."""

import os
import threading

import psycopg2
from flask import Flask, Response, jsonify, request

from capecontrol.config import libpq_url

application = Flask(__name__)
_own = threading.local()


@application.get("/healthz")
def healthz() -> str:
    """Say that the process is alive."""
    return "ok"


@application.get("/bare")
def bare() -> Response:
    """Answer what the e-mail check answers, without asking anybody."""
    return _answer(request.args.get("email", ""))


@application.get("/looked-up")
def looked_up() -> Response:
    """Answer after one SELECT by the unique index, on a connection of this thread."""
    connection = getattr(_own, "connection", None)
    if connection is None:
        connection = _own.connection = psycopg2.connect(libpq_url(os.environ["DATABASE_URL"]))
        connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1 FROM users_v2 WHERE email_key = %s", (request.args.get("email", ""),))
        cursor.fetchone()
    return _answer("")


def _answer(_: str) -> Response:
    return jsonify({"available": True, "message": "This address is available."})
