from __future__ import annotations

import base64
import hmac
import time

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from joserfc import jws
from joserfc.jwk import RSAKey

from placeos.model.tokens import (
    Claims,
    InvalidScope,
    InvalidToken,
    UserClaims,
    Verifier,
    allows,
    check_times,
    hash_api_key,
    key_set,
    normalise_scope,
    sign,
)

PRIVATE = RSAKey.generate_key(2048).as_pem(private=True)
PUBLIC = RSAKey.import_key(PRIVATE).as_pem(private=False)
NOW = 1_700_000_000


def claims(**change: object) -> Claims:
    whole = Claims(
        iat=NOW,
        exp=NOW + 7200,
        jti="id",
        aud="place.example.com",
        sub="user-1",
        scope=["public"],
        u=UserClaims(n="Ada Ü", e="ada@example.com", p=3, r=["a"]),
    )
    return msgspec.structs.replace(whole, **change)


@pytest.mark.parametrize("pem", [PRIVATE, PUBLIC])
def test_a_token_says_what_was_signed(pem: bytes) -> None:
    assert Verifier(pem).verify(sign(claims(), PRIVATE), NOW) == claims()


def test_the_content_is_laid_out_as_clients_know_it() -> None:
    payload = sign(claims(), PRIVATE).split(".")[1]
    content = msgspec.json.decode(base64.urlsafe_b64decode(payload + "=="))
    assert content == {
        "iss": "POS",
        "iat": NOW,
        "exp": NOW + 7200,
        "jti": "id",
        "aud": "place.example.com",
        "sub": "user-1",
        "scope": ["public"],
        "u": {"n": "Ada Ü", "e": "ada@example.com", "p": 3, "r": ["a"]},
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"exp": NOW}, "expired"),
        ({"exp": NOW - 1}, "expired"),
        ({"nbf": NOW + 1}, "not valid yet"),
    ],
)
def test_times_are_checked(change: dict[str, object], message: str) -> None:
    token = sign(claims(**change), PRIVATE)
    with pytest.raises(InvalidToken, match=message):
        Verifier(PUBLIC).verify(token, NOW)
    assert Verifier(PUBLIC).read(token) == claims(**change)


def test_the_clock_is_asked_when_no_time_is_given() -> None:
    fresh = claims(exp=int(time.time()) + 60)
    assert Verifier(PUBLIC).verify(sign(fresh, PRIVATE)) == fresh


def foreign(header: dict[str, str], key: RSAKey) -> str:
    payload = msgspec.json.encode(claims())
    return jws.serialize_compact(header, payload, key, algorithms=[header["alg"]])


def confused(payload: str) -> str:
    """Signed by HMAC with the public key, as if that were a shared secret."""
    head = base64.urlsafe_b64encode(b'{"alg":"HS256"}').rstrip(b"=").decode()
    mac = hmac.digest(PUBLIC, f"{head}.{payload}".encode(), "sha256")
    return f"{head}.{payload}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"


def test_only_the_installations_key_and_algorithm_count() -> None:
    header, payload, signature = sign(claims(), PRIVATE).split(".")
    other = sign(claims(u=UserClaims(p=0)), PRIVATE).split(".")[1]
    none = base64.urlsafe_b64encode(b'{"alg":"none"}').rstrip(b"=").decode()
    forged = [
        foreign({"alg": "RS256"}, RSAKey.generate_key(2048)),
        foreign({"alg": "RS512"}, RSAKey.import_key(PRIVATE)),
        confused(payload),
        f"{none}.{payload}.",
        f"{none}.{payload}.{signature}",
        f"{header}.{other}.{signature}",
        f"{header}.{payload}.",
        f"{header}.{payload}",
    ]
    for token in forged:
        with pytest.raises(InvalidToken):
            Verifier(PUBLIC).read(token)


@settings(max_examples=300)
@given(st.text() | st.binary().map(lambda data: data.decode("latin-1")))
def test_anything_else_is_an_invalid_token(text: str) -> None:
    deep = base64.urlsafe_b64encode(b"[" * 8000).rstrip(b"=").decode()
    for token in (text, f"{text}.{text}.{text}", f"{deep}.e30.e30", "x" * 20_000):
        with pytest.raises(InvalidToken):
            Verifier(PUBLIC).read(token)


def test_signed_content_of_another_shape_is_an_invalid_token() -> None:
    key = RSAKey.import_key(PRIVATE)
    for payload in (b"{}", b"[]", b"\xff", b"[" * 5000, b'{"iat":"x"}'):
        token = jws.serialize_compact({"alg": "RS256"}, payload, key, algorithms=["RS256"])
        with pytest.raises(InvalidToken):
            Verifier(PUBLIC).read(token)


@pytest.mark.parametrize(
    ("bits", "support", "admin", "clearance"),
    [(0, False, False, 0), (1, True, False, 1), (2, True, True, 2), (3, True, True, 2)],
)
def test_an_administrator_may_what_support_may(
    bits: int, support: bool, admin: bool, clearance: int
) -> None:
    whole = claims(u=UserClaims(p=bits))
    assert (whole.is_support, whole.is_admin, whole.clearance) == (support, admin, clearance)


@pytest.mark.parametrize(
    ("scope", "resources", "access", "allowed"),
    [
        (["public"], ["systems"], "write", True),
        (["public.read"], ["systems"], "read", True),
        (["public.Read"], ["systems"], "write", False),
        (["systems"], ["systems"], "write", True),
        (["systems.READ"], ["systems"], "read", True),
        (["systems.read"], ["systems"], "write", False),
        (["systems.Write"], ["systems"], "read", False),
        (["zones"], ["systems", "zones"], "read", True),
        (["zones"], ["systems"], "read", False),
        (["systems.read.write"], ["systems"], "read", False),
        (["systems."], ["systems"], "read", False),
        (["Systems"], ["systems"], "read", False),
        ([], ["systems"], "read", False),
    ],
)
def test_scopes(scope: list[str], resources: list[str], access: str, allowed: bool) -> None:
    assert allows(claims(scope=scope), resources, access) is allowed  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("scope", "normal"),
    [("users", "users"), ("users.read", "users.Read"), ("users.WRITE", "users.Write")],
)
def test_scopes_are_written_one_way(scope: str, normal: str) -> None:
    assert normalise_scope(scope) == normal


@pytest.mark.parametrize("scope", ["", ".read", "users.", "users.delete", "a.read.write"])
def test_what_is_no_scope_is_refused(scope: str) -> None:
    with pytest.raises(InvalidScope):
        normalise_scope(scope)


def test_a_stored_key_is_the_hmac_of_its_id() -> None:
    stored = hash_api_key("0123", "secret")
    assert len(stored) == 128
    assert stored != hash_api_key("0124", "secret")
    assert stored != hash_api_key("0123", "secre")


def test_the_published_key_holds_nothing_private() -> None:
    (key,) = key_set(PRIVATE)["keys"]  # type: ignore[misc, attr-defined]
    assert set(key) == {"kty", "n", "e", "kid", "use", "alg"}
    assert key == key_set(PUBLIC)["keys"][0]  # type: ignore[index]


def test_guests_are_told_apart_and_times_can_be_checked_alone() -> None:
    assert claims(scope=["guest"]).is_guest
    assert not claims().is_guest
    check_times(claims(), NOW + 7199)
