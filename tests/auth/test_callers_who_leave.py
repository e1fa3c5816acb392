"""Who closes the connection while others are hashed gets no account: the work is dropped before it starts."""

import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import psycopg2
import requests

from capecontrol.config import libpq_url
from tests.live_server import LiveServer
from tests.people import PASSWORD

# One at a time, and so slow that who comes meanwhile waits, and not so slow that they are sent to the waiting room.
LIVE_SERVER = {
    "worker": False,
    "WEB_CONCURRENCY": "1",
    "PASSWORD_HASH_SLOTS": "1",
    "PASSWORD_HASH_PASSES": "12",
    "REGISTRATION_WAITING_ROOM": "0",
}


def body(name: str) -> dict[str, str]:
    return {"email": f"{name}@example.com", "password": PASSWORD, "full_name": "Sipho Zulu"}


def register(server: LiveServer, name: str) -> int:
    return requests.post(f"{server.url}/api/auth/v2/register", json=body(name), timeout=30).status_code


def register_and_leave(server: LiveServer, name: str) -> None:
    content = json.dumps(body(name)).encode()
    head = f"POST /api/auth/v2/register HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nContent-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(head.encode() + f"Content-Length: {len(content)}\r\n\r\n".encode() + content)


def registrations_answered(server: LiveServer) -> list[int]:
    lines = [json.loads(line) for line in server.log().splitlines() if '"auth_api.register"' in line]
    return [line["status"] for line in lines]


def test_who_has_left_is_not_hashed_for(live_server: LiveServer) -> None:
    with ThreadPoolExecutor(1) as other:
        staying = other.submit(register, live_server, "stays")
        time.sleep(0.1)
        register_and_leave(live_server, "leaves")
        assert staying.result() == 201
    ends_at = time.monotonic() + 20
    while len(registrations_answered(live_server)) < 2 and time.monotonic() < ends_at:
        time.sleep(0.05)
    assert sorted(registrations_answered(live_server)) == [201, 503]
    with psycopg2.connect(libpq_url(live_server.database_url)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT email FROM users_v2")
        assert cursor.fetchall() == [("stays@example.com",)]
    assert register(live_server, "leaves") == 201, "and may come again"
