from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from placeos.api.control.handshake import PATH, Rejection, host_name, judge, same_origin

UPGRADE = {"host": "place.example.com", "upgrade": "WebSocket", "sec-websocket-version": "13"}


def test_credentials_are_taken_from_query_header_and_cookies() -> None:
    headers = UPGRADE | {
        "authorization": "Bearer a",
        "x-api-key": "b",
        "cookie": 'theme=dark; bearer_token=c; api-key="d"',
        "accept": "*/*",
    }
    credentials = judge(
        f"{PATH}?bearer_token=e%2Bf&api-key=g&bearer_token=z&fixed_device=true", headers
    )
    assert credentials.headers == {"authorization": "Bearer a", "x-api-key": "b"}
    assert credentials.query == {"bearer_token": "e+f", "api-key": "g"}
    assert credentials.cookies == {"bearer_token": "c", "api-key": "d"}
    assert credentials.host == "place.example.com"


@pytest.mark.parametrize("target", ["/", f"{PATH}/more", "/api/engine/v2/systems", "*", ""])
def test_another_path_is_not_found(target: str) -> None:
    with pytest.raises(Rejection) as raised:
        judge(target, UPGRADE)
    assert raised.value.status == 404


@pytest.mark.parametrize(
    "change", [{"upgrade": ""}, {"upgrade": "h2c"}, {"sec-websocket-version": "8"}]
)
def test_without_an_upgrade_the_answer_is_426(change: dict[str, str]) -> None:
    with pytest.raises(Rejection) as raised:
        judge(PATH, UPGRADE | change)
    assert raised.value.status == 426


@pytest.mark.parametrize(
    ("origin", "host", "same"),
    [
        ("http://localhost:8080", "localhost:8080", True),
        ("http://localhost:4200", "localhost:8080", False),
        ("https://a.example", "a.example", True),
        ("https://a.example", "a.example:443", True),
        ("http://a.example", "A.example", True),
        ("https://a.example.evil", "a.example", False),
        ("https://evil", "a.example", False),
        ("null", "a.example", False),
        ("null", "", False),
        ("http://[::1]:8080", "[::1]:8080", True),
        ("http://[::1", "[::1", False),
        ("http://a:99999", "a:99999", False),
    ],
)
def test_the_origin_is_compared_with_the_host(origin: str, host: str, same: bool) -> None:
    assert same_origin(origin, host) is same


def test_cookies_do_not_count_from_another_origin() -> None:
    foreign = UPGRADE | {"origin": "https://evil.example", "cookie": "bearer_token=c"}
    with pytest.raises(Rejection) as raised:
        judge(PATH, foreign)
    assert raised.value.status == 403
    assert judge(f"{PATH}?bearer_token=e", foreign).cookies == {}
    assert judge(PATH, foreign | {"origin": "https://place.example.com"}).cookies


@pytest.mark.parametrize(
    ("host", "name"),
    [("A.example:8080", "a.example"), ("[::1]:80", "::1"), ("", ""), ("[", ""), ("a:b:c", "a")],
)
def test_the_host_name_has_no_port(host: str, name: str) -> None:
    assert host_name(host) == name


@given(st.text(), st.text(), st.text(), st.text())
def test_anything_is_judged(query: str, host: str, origin: str, cookie: str) -> None:
    status = 101
    try:
        judge(f"{PATH}?{query}", UPGRADE | {"host": host, "origin": origin, "cookie": cookie})
    except Rejection as rejection:
        status = rejection.status
    assert status in (101, 400, 403)
