"""How requests are put together. Pure."""

from __future__ import annotations

from urllib.parse import parse_qsl, urlsplit

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from placeos.driver.errors import DriverError
from placeos.driver.transports.http_message import HTTPError, Request, Response, url_of
from placeos.driver.transports.http_settings import Credentials, merged, target_of

SCHEMES = {"http": "http", "https": "https"}


@pytest.mark.parametrize(
    ("base", "path", "params", "url"),
    [
        ("http://h", "", {}, "http://h/"),
        ("http://h/api/", "", {}, "http://h/api/"),
        ("http://h/api", "rooms", {}, "http://h/api/rooms"),
        ("http://h/api/", "/rooms", {}, "http://h/api/rooms"),
        ("http://h/api", "//evil/x", {}, "http://h/api/evil/x"),
        ("http://h/?key=1", "a", {"key": 2, "b": True}, "http://h/a?b=true&key=1"),
        ("http://h/?key=1", "a?key=3&op=x:y,z", {"b": None}, "http://h/a?key=3&op=x:y,z"),
        ("http://h/", "a", {"n": [1, None, "ü&"]}, "http://h/a?n=1&n=%C3%BC%26"),
        ("http://h/api", "a#part", {}, "http://h/api/a"),
        ("http://h/api?k=1", "http://h/other?p=2", {}, "http://h/other?k=1&p=2"),
        ("http://h/api?k=1", "https://else/x", {"q": "v"}, "https://else/x?q=v"),
        ("http://h:80/?k=1", "http://h/x", {}, "http://h/x?k=1"),
        ("http://h/?k=1", "https://u:p@else", {}, "https://else/"),
    ],
)
def test_url(base, path, params, url):
    assert url_of(base, path, params, below=True) == url


def test_path_takes_the_place_of_the_uris_path():
    assert url_of("http://h/live?k=1", "rooms", {}, below=False) == "http://h/rooms?k=1"
    assert url_of("http://h/live", "", {}, below=False) == "http://h/"


@given(st.dictionaries(st.text(min_size=1), st.text(), max_size=5))
def test_params_arrive_as_they_are(params):
    query = urlsplit(url_of("http://h/", "a", params, below=True)).query
    assert dict(parse_qsl(query, keep_blank_values=True)) == params


@given(st.text(), st.text())
def test_a_relative_path_never_leaves_the_device(base_path, path):
    if path[:8].lower().startswith(("http://", "https://")):
        return
    url = url_of("http://device:8080/" + base_path.lstrip("/").split("#")[0], path, {}, below=True)
    assert url.startswith("http://device:8080/")


def test_target():
    assert target_of("http://u%40:p%3A@h:8080/a?b#c", SCHEMES).uri == "http://h:8080/a?b"
    assert target_of("http://u%40:p%3A@h", SCHEMES).login == Credentials("u@", "p:")
    assert target_of("https://[::1]:81/", SCHEMES).uri == "https://[::1]:81/"
    for uri in ("", "host/path", "ftp://h", "http://", "http://user:pa:ss#word@h", "http://[h"):
        with pytest.raises(DriverError, match="uri") as caught:
            target_of(uri, SCHEMES)
        assert "ss" not in str(caught.value)


def test_headers_of_layers():
    assert merged([("A", "1"), ("B", "2")], [("a", "3"), ("a", "4")]) == [
        ("B", "2"),
        ("a", "3"),
        ("a", "4"),
    ]
    for bad in (("", "x"), ("X", "a\nb"), ("X\r", "a")):
        with pytest.raises(DriverError, match="line break"):
            merged([bad])


def test_names_for_errors_hold_no_secret():
    assert str(Request("GET", "/a?token=secret#x")) == "GET /a"
    assert str(Request("GET", "https://u:secret@h/a")) == "GET h/a"
    assert str(Request("GET", "")) == "GET /"


class Room(msgspec.Struct):
    name: str
    seats: int = 0


def answered(content: bytes, status: int = 200, charset: str = "utf-8") -> Response:
    return Response("GET /a", status, "Reason", {}, content, charset)


def test_response():
    assert answered(b'{"name": "A"}').json() == {"name": "A"}
    assert answered(b'{"name": "A", "seats": "4"}').json(Room) == Room("A", 4)
    assert answered("ü".encode("latin-1"), charset="latin-1").text == "ü"
    assert answered(b"\xff", charset="nonsense").text == "\ufffd"
    assert answered(b"", 204).expect(200, 204).status == 204
    assert answered(b"", 299).expect().ok
    with pytest.raises(HTTPError, match="GET /a answered 200: an empty body is no JSON"):
        answered(b"").json()
    with pytest.raises(HTTPError, match=r"GET /a answered 200: .*`name`"):
        answered(b"{}").json(Room)
    with pytest.raises(HTTPError, match="GET /a answered 200"):
        answered(b"[" * 100_000).json()
    with pytest.raises(HTTPError, match="GET /a answered 404 Reason") as caught:
        answered(b"gone", 404).expect()
    assert caught.value.code == 502
    assert caught.value.response.text == "gone"
