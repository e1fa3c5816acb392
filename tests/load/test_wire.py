"""Messages are read the same however the network cuts them, and nonsense is refused."""

import pytest

from tests.load.wire import END, Head, MalformedMessage, Receiver, chunk, request_bytes

ANSWERS = b"".join(
    (
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nX-A:  b \r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(b"de") + chunk(b"f") + chunk(b""),
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 200\r\n\r\nrest",
    )
)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_answers_are_read_whatever_the_pieces(size):
    receiver = Receiver(of_requests=False)
    bodies, body, heads = [], b"", []
    for start in range(0, len(ANSWERS) + size, size):
        receiver.feed(ANSWERS[start : start + size])
        while not receiver.is_between_messages and (part := receiver.take()) is not None:
            if isinstance(part, Head):
                heads.append(part)
            elif part is END:
                bodies.append(body)
                body = b""
            else:
                body += part
    assert bodies == [b"abc", b"def", b"", b"rest"]
    assert heads[0].get(b"x-a") == b"b"


@pytest.mark.parametrize(
    "nonsense",
    [
        b"hello\r\n\r\n",
        b"GET / HTTP/2\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET / HTTP/1.1\r\nName : value\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"x" * 70_000,
    ],
)
def test_nonsense_is_refused(nonsense):
    receiver = Receiver(of_requests=True)
    receiver.feed(nonsense)
    with pytest.raises(MalformedMessage):
        list(iter(receiver.take, None))


WHOLE = request_bytes("POST", "/", host="a", body=b"whole")
IN_CHUNKS = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(b"whole") + chunk(b"")


@pytest.mark.parametrize("message", [WHOLE, IN_CHUNKS])
def test_a_message_that_stops_anywhere_is_an_end_of_file(message):
    for length in range(1, len(message)):
        receiver = Receiver(of_requests=True)
        receiver.feed(message[:length])
        receiver.feed(b"")
        with pytest.raises(EOFError):
            list(iter(receiver.take, None))
