"""The parts of sign-in that only decide."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from placeos.auth import oauth, requests
from placeos.auth.app import after_logout
from placeos.auth.oauth import OAuthError, access_claims, narrow_scope, parse_scope
from placeos.auth.refresh import GRACE, RefreshToken, Verdict, judge
from placeos.auth.throttle import Bucket, PasswordThrottle
from placeos.model.authority import Authority
from placeos.model.user import User

# -- throttling -------------------------------------------------------------------------------


def test_a_bucket_lets_its_limit_through_and_then_one_per_interval() -> None:
    bucket = Bucket(3, 10.0)
    for _ in range(3):
        assert bucket.wait("a", 0.0) == 0
        bucket.charge("a", 0.0)
    assert bucket.wait("a", 0.0) == 10.0
    assert bucket.wait("a", 9.0) == pytest.approx(1.0)
    assert bucket.wait("a", 10.0) == 0
    assert bucket.wait("b", 0.0) == 0


def test_a_refund_takes_back_one_try() -> None:
    bucket = Bucket(2, 10.0)
    bucket.charge("a", 0.0)
    bucket.charge("a", 0.0)
    bucket.refund("a")
    assert bucket.wait("a", 0.0) == 0
    bucket.charge("a", 0.0)
    assert bucket.wait("a", 0.0) > 0


def test_memory_is_bounded() -> None:
    bucket = Bucket(1, 10.0, capacity=100)
    for number in range(1000):
        bucket.charge(str(number), 0.0)
    assert len(bucket._levels) == 100
    assert bucket.wait("999", 0.0) > 0
    assert bucket.wait("0", 0.0) == 0


@given(st.lists(st.floats(0, 100), max_size=60))
def test_never_more_than_the_limit_and_what_leaked_since(gaps: list[float]) -> None:
    bucket, now, allowed = Bucket(5, 12.0), 0.0, 0
    for gap in gaps:
        now += gap
        if bucket.wait("a", now) <= 0:
            bucket.charge("a", now)
            allowed += 1
    assert allowed <= 5 + now / 12.0 + 1e-6


def test_a_stranger_elsewhere_does_not_lock_somebody_out() -> None:
    throttle = PasswordThrottle()
    for _ in range(20):
        throttle.charge("ada", "10.9.9.9", 0.0)
    assert throttle.wait("ada", "10.9.9.9", 0.0) > 0
    assert throttle.wait("ada", "10.1.1.1", 0.0) == 0


def test_one_machine_trying_many_accounts_is_stopped() -> None:
    throttle = PasswordThrottle()
    for number in range(100):
        throttle.charge(f"user{number}", "10.9.9.9", 0.0)
    assert throttle.wait("another", "10.9.9.9", 0.0) > 0
    assert throttle.wait("another", "10.1.1.1", 0.0) == 0


def test_the_right_password_clears_what_was_mistyped() -> None:
    throttle = PasswordThrottle()
    for _ in range(5):
        throttle.charge("ada", "10.1.1.1", 0.0)
    throttle.refund("ada", "10.1.1.1")
    assert throttle.wait("ada", "10.1.1.1", 0.0) == 0


# -- refresh tokens ---------------------------------------------------------------------------


def token(**change: int | None) -> RefreshToken:
    whole: dict[str, object] = {
        "id": "1", "token_hash": "", "user_id": "u", "authority_id": "a", "client_id": None,
        "scope": "public", "created_at": 0, "expires_at": 1000, "used_at": None,
        "revoked_at": None, "family": "f", **change,
    }  # fmt: skip
    return RefreshToken(**whole)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("known", "now", "successor_used", "verdict"),
    [
        (token(), 10, False, Verdict.ROTATE),
        (token(), 999, False, Verdict.ROTATE),
        (token(), 1000, False, Verdict.EXPIRED),
        (token(used_at=10), 10 + GRACE, False, Verdict.REPLACE),
        (token(used_at=10), 10 + GRACE, True, Verdict.REVOKE),
        (token(used_at=10), 11 + GRACE, False, Verdict.REVOKE),
        (token(revoked_at=5), 6, False, Verdict.REVOKE),
        (token(used_at=5, revoked_at=5), 6, False, Verdict.REVOKE),
    ],
)
def test_what_becomes_of_a_refresh_token(
    known: RefreshToken, now: int, successor_used: bool, verdict: Verdict
) -> None:
    assert judge(known, now, successor_used=successor_used) is verdict


# -- scopes and claims ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "scopes"),
    [
        ("", ["public"]),
        ("  ", ["public"]),
        ("public", ["public"]),
        ("b a.read b", ["b", "a.Read"]),
        ("openid o_auth_applications.WRITE", ["openid", "o_auth_applications.Write"]),
    ],
)
def test_scopes_asked_for(text: str, scopes: list[str]) -> None:
    assert parse_scope(text) == scopes


@pytest.mark.parametrize(
    "text", ["guest", "guest.Read", "edge-control", "ei|edge-1", "x.y", "A", "a" * 5000, "é", "1"]
)
def test_scopes_that_are_not_offered(text: str) -> None:
    with pytest.raises(OAuthError) as raised:
        parse_scope(text)
    assert raised.value.error == "invalid_scope"


def test_a_renewed_scope_is_never_wider() -> None:
    assert narrow_scope("", ["a", "b.Read"]) == ["a", "b.Read"]
    assert narrow_scope("b.read", ["a", "b.Read"]) == ["b.Read"]
    with pytest.raises(OAuthError):
        narrow_scope("b", ["a", "b.Read"])


def user(**change: object) -> User:
    return User(authority_id="authority-1", name="Ada", email="ada@example.com", **change)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("support", "admin", "bits"),
    [(False, False, 0), (True, False, 1), (False, True, 2), (True, True, 3)],
)
def test_rights_become_permission_bits(support: bool, admin: bool, bits: int) -> None:
    assert oauth.permissions(user(support=support, sys_admin=admin)) == bits


def test_a_token_issued_in_the_second_of_a_sign_out_is_younger_than_that() -> None:
    domain = Authority(name="x", domain="place.example.com")
    claims = access_claims(user(logged_out_at=1000), domain, ["public"], 1000)
    assert claims.iat == 1001
    assert claims.exp == 1000 + oauth.ACCESS_LIFETIME


# -- requests ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "query", "cookies", "found"),
    [
        ({"authorization": "Bearer a"}, {"bearer_token": "b"}, {}, "a"),
        ({"authorization": "Token a "}, {}, {}, "a"),
        ({"authorization": ""}, {"bearer_token": "b"}, {"bearer_token": "c"}, ""),
        ({}, {"bearer_token": "b"}, {"bearer_token": "c"}, "b"),
        ({}, {}, {"bearer_token": "c"}, "c"),
        ({}, {}, {}, ""),
    ],
)
def test_where_an_access_token_is_looked_for(
    headers: dict[str, str], query: dict[str, str], cookies: dict[str, str], found: str
) -> None:
    assert requests.bearer(headers, query, cookies) == found


@pytest.mark.parametrize(
    ("headers", "given", "found"),
    [
        ({}, {"client_id": "app"}, "app"),
        ({"authorization": "Basic YXBwJTIwMTpzZWNyZXQ="}, {}, "app 1"),
        ({"authorization": "Basic YXBwOg=="}, {"client_id": "other"}, "other"),
        ({"authorization": "Basic !!!"}, {}, ""),
        ({"authorization": "Bearer x"}, {}, ""),
        ({}, {"client_id": "x" * 1000}, "x" * 255),
        ({}, {"client_id": "a\0b"}, "ab"),
    ],
)
def test_which_application_asks(headers: dict[str, str], given: dict[str, str], found: str) -> None:
    assert requests.client_id(headers, given) == found


@given(st.text())
def test_any_form_is_read_or_refused(text: str) -> None:
    try:
        requests.parse_form(text)
        requests.parse_json(text)
    except OAuthError as error:
        refused = error.error
    else:
        refused = "invalid_request"
    assert refused == "invalid_request"


@pytest.mark.parametrize(
    ("wish", "logout_url", "target"),
    [
        ("/app", "/auth/logout", "/app"),
        ("https://evil", "/auth/logout", "/"),
        ("//evil", "/auth/logout?continue=https://idp.example/out", "https://idp.example/out"),
        ("", "https://idp.example/out", "https://idp.example/out"),
        ("/\\evil", "", "/"),
        ("/\t/evil", "", "/"),
        ("\n//evil", "", "/"),
        ("/a\r\nX: y", "", "/aX:%20y"),
        ("/\u2603?a=b%20c#d", "", "/%E2%98%83?a=b%20c#d"),
    ],
)
def test_where_one_goes_after_signing_out(wish: str, logout_url: str, target: str) -> None:
    assert after_logout(wish, logout_url) == target
