"""The auth service over HTTP, with a real database."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from joserfc import jws
from joserfc.jwk import KeySet


async def test_the_authority_is_found_by_host_name(auth: Any) -> None:
    for host in ("localhost", "localhost:8080", "LOCALHOST"):
        answer = await auth.client.get("/auth/authority", headers={"Host": host})
        assert answer.status_code == 200
        record = answer.json()
        assert record["domain"] == "localhost"
        assert record["version"] == "v2.0.0"
        assert (record["session"], record["token_valid"], record["production"]) == (
            False,
            False,
            True,
        )
        assert record["config"] == {"default_app": "/backoffice/"}
        assert record["login_url"] == "/login?continue={{url}}"
        assert not {"internals", "created_at"} & set(record)


async def test_an_unknown_host_means_the_only_authority_while_there_is_one(auth: Any) -> None:
    get = auth.client.get
    other = {"Host": "place.example.com"}
    assert (await get("/auth/authority", headers=other)).json()["domain"] == "localhost"
    await auth.sql(
        "INSERT INTO authority SELECT 'authority-2', created_at, updated_at, 'Two', '',"
        " 'two.example', login_url, logout_url, internals, config, email_domains FROM authority"
    )
    async with asyncio.timeout(20):
        while (await get("/auth/authority", headers=other)).status_code != 404:
            await asyncio.sleep(0.05)
    answer = await get("/auth/authority?health", headers=other)
    assert (answer.status_code, answer.content) == (200, b"")
    answer = await get("/auth/authority", headers={"Host": "two.example:99"})
    assert answer.json()["id"] == "authority-2"
    refused = await auth.client.post("/auth/token", params=auth.grant(), headers=other)
    assert (refused.status_code, refused.json()["error"]) == (400, "invalid_request")
    foreign = await auth.client.post(
        "/auth/token", params=auth.grant(), headers={"Host": "two.example"}
    )
    assert (foreign.status_code, foreign.json()["error"]) == (400, "invalid_grant")


@pytest.mark.parametrize("path", ["/auth/token", "/auth/oauth/token"])
@pytest.mark.parametrize("place", ["query", "form", "both", "json"])
async def test_a_password_gives_tokens_however_it_is_sent(auth: Any, path: str, place: str) -> None:
    client = {"client_id": "0123456789abcdef", "redirect_uri": "http://localhost/x"}
    given = auth.grant(**client)
    if place == "query":
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        answer = await auth.client.post(path, params=given, headers=form)
    elif place == "form":
        answer = await auth.client.post(path, data=given)
    elif place == "json":
        answer = await auth.client.post(path, json=given)
    else:
        answer = await auth.client.post(path, params=client, data=auth.grant())
    assert answer.status_code == 200, answer.text
    content = answer.json()
    assert content["token_type"] == "Bearer"
    assert content["expires_in"] == 7200
    assert content["scope"] == "public"
    assert content["refresh_token"]
    assert answer.headers["cache-control"] == "no-store"
    claims = auth.claims(content["access_token"])
    assert (claims.iss, claims.aud, claims.sub) == ("POS", "localhost", auth.user_id)
    assert (claims.u.n, claims.u.e, claims.u.p, claims.u.r) == (
        "Ada Lovelace",
        "ada@example.com",
        3,
        [],
    )
    assert abs(claims.iat - time.time()) < 30
    assert claims.exp - content["created_at"] == 7200


@pytest.mark.parametrize(
    ("change", "status", "error"),
    [
        ({"password": "wrong"}, 400, "invalid_grant"),
        ({"password": "x" * 2000}, 400, "invalid_grant"),
        ({"username": "nobody@example.com"}, 400, "invalid_grant"),
        ({"username": ""}, 400, "invalid_request"),
        ({"password": ""}, 400, "invalid_request"),
        ({"grant_type": ""}, 400, "invalid_request"),
        ({"grant_type": "magic"}, 400, "unsupported_grant_type"),
        ({"scope": "guest"}, 400, "invalid_scope"),
        ({"scope": "public Guest.read"}, 400, "invalid_scope"),
        ({"scope": "guest.write"}, 400, "invalid_scope"),
        ({"scope": "a.b.c"}, 400, "invalid_scope"),
        ({"username": "ada\x00@example.com"}, 400, "invalid_grant"),
    ],
)
async def test_what_is_wrong_is_said_as_the_standard_says(
    auth: Any, change: dict[str, str], status: int, error: str
) -> None:
    answer = await auth.client.post("/auth/oauth/token", data=auth.grant(**change))
    assert (answer.status_code, answer.json()["error"]) == (status, error)
    assert answer.json()["error_description"]


async def test_the_address_is_taken_in_any_case_and_users_that_left_are_refused(auth: Any) -> None:
    await auth.sign_in(username="  ADA@Example.com ")
    await auth.sql('UPDATE "user" SET deleted = true')
    answer = await auth.client.post("/auth/token", params=auth.grant())
    assert answer.json()["error"] == "invalid_grant"


async def test_scopes_are_kept_and_written_as_they_are_emitted(auth: Any) -> None:
    content = await auth.sign_in(scope="systems.read users.WRITE zones systems.Read")
    assert content["scope"] == "systems.Read users.Write zones"
    assert auth.claims(content["access_token"]).scope == ["systems.Read", "users.Write", "zones"]
    narrowed = await auth.renew(content["refresh_token"], scope="zones")
    assert narrowed.json()["scope"] == "zones"
    again = await auth.sign_in(scope="zones")
    widened = await auth.renew(again["refresh_token"], scope="public")
    assert widened.json()["error"] == "invalid_scope"
    assert (await auth.renew(again["refresh_token"])).status_code == 200


async def test_openid_adds_an_identity_token_that_the_published_key_verifies(auth: Any) -> None:
    content = await auth.sign_in(scope="public openid", client_id="app")
    key_set = (await auth.client.get("/auth/oauth/discovery/keys")).json()
    assert "d" not in key_set["keys"][0]
    keys = KeySet.import_key_set(key_set)
    token = jws.deserialize_compact(content["id_token"], keys, algorithms=["RS256"])
    assert b'"email":"ada@example.com"' in token.payload
    assert b'"aud":"app"' in token.payload
    jws.deserialize_compact(content["access_token"], keys, algorithms=["RS256"])


# -- refresh tokens ---------------------------------------------------------------------------


async def test_a_refresh_token_is_good_once_and_stored_hashed(auth: Any) -> None:
    content = await auth.sign_in(client_id="app")
    stored = await auth.sql("SELECT * FROM refresh_token")
    assert content["refresh_token"] not in str(stored)
    answer = await auth.renew(content["refresh_token"], client_id="app")
    assert answer.status_code == 200
    renewed = answer.json()
    assert renewed["refresh_token"] != content["refresh_token"]
    assert auth.claims(renewed["access_token"]).sub == auth.user_id
    assert (await auth.renew(renewed["refresh_token"])).status_code == 200


async def test_reuse_of_a_refresh_token_ends_the_family(auth: Any) -> None:
    stolen = (await auth.sign_in())["refresh_token"]
    second = (await auth.renew(stolen)).json()["refresh_token"]
    third = (await auth.renew(second)).json()["refresh_token"]
    other = (await auth.sign_in())["refresh_token"]
    answer = await auth.renew(stolen)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_grant")
    assert (await auth.renew(third)).json()["error"] == "invalid_grant"
    assert (await auth.renew(other)).status_code == 200


async def test_a_lost_answer_may_be_asked_for_again(auth: Any) -> None:
    first = (await auth.sign_in())["refresh_token"]
    lost = (await auth.renew(first)).json()["refresh_token"]
    again = (await auth.renew(first)).json()["refresh_token"]
    renewed = await auth.renew(again)
    assert renewed.status_code == 200
    assert (await auth.renew(lost)).json()["error"] == "invalid_grant"
    assert (await auth.renew(renewed.json()["refresh_token"])).json()["error"] == "invalid_grant"


async def test_a_lost_answer_is_not_forgiven_for_ever(auth: Any) -> None:
    first = (await auth.sign_in())["refresh_token"]
    await auth.renew(first)
    await auth.sql("UPDATE refresh_token SET used_at = used_at - 60, created_at = created_at - 60")
    assert (await auth.renew(first)).json()["error"] == "invalid_grant"


async def test_of_many_at_once_one_family_member_stays_live(auth: Any) -> None:
    first = (await auth.sign_in())["refresh_token"]
    answers = await asyncio.gather(*(auth.renew(first) for _ in range(8)))
    assert all(answer.status_code == 200 for answer in answers)
    live = await auth.sql(
        "SELECT count(*) AS n FROM refresh_token WHERE used_at IS NULL AND revoked_at IS NULL"
    )
    assert live[0]["n"] == 1


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE refresh_token SET expires_at = 1",
        'UPDATE "user" SET deleted = true',
        'DELETE FROM api_key; DELETE FROM "user"',
    ],
)
async def test_a_refresh_token_ends_with_its_time_or_user(auth: Any, statement: str) -> None:
    token = (await auth.sign_in())["refresh_token"]
    for part in statement.split(";"):
        await auth.sql(part)
    assert (await auth.renew(token)).json()["error"] == "invalid_grant"


async def test_a_refresh_token_belongs_to_its_application(auth: Any) -> None:
    token = (await auth.sign_in(client_id="one"))["refresh_token"]
    assert (await auth.renew(token, client_id="two")).json()["error"] == "invalid_grant"
    assert (await auth.renew(token, client_id="one")).status_code == 200


async def test_rights_are_read_again_at_each_renewal(auth: Any) -> None:
    token = (await auth.sign_in())["refresh_token"]
    await auth.sql("UPDATE \"user\" SET sys_admin = false, groups = '{a,b}'")
    claims = auth.claims((await auth.renew(token)).json()["access_token"])
    assert (claims.u.p, claims.u.r) == (1, ["a", "b"])


# -- revoking and signing out -----------------------------------------------------------------


@pytest.mark.parametrize("path", ["/auth/oauth/revoke", "/auth/oauth/token", "/auth/token"])
@pytest.mark.parametrize("kind", ["refresh_token", "access_token"])
async def test_revoking_ends_the_family(auth: Any, path: str, kind: str) -> None:
    content = await auth.sign_in()
    answer = await auth.client.post(path, params={"token": content[kind]})
    assert (answer.status_code, answer.json()) == (200, {})
    assert (await auth.renew(content["refresh_token"])).json()["error"] == "invalid_grant"


async def test_revoking_what_is_unknown_succeeds_and_nothing_is_an_error(auth: Any) -> None:
    answer = await auth.client.post("/auth/oauth/revoke", data={"token": "nonsense"})
    assert answer.status_code == 200
    assert (await auth.client.post("/auth/oauth/revoke")).json()["error"] == "invalid_request"


async def test_token_info_and_userinfo_tell_whose_token_it_is(auth: Any) -> None:
    token = (await auth.sign_in(scope="zones"))["access_token"]
    bearer = {"Authorization": f"Bearer {token}"}
    info = (await auth.client.get("/auth/oauth/token/info", headers=bearer)).json()
    assert (info["resource_owner_id"], info["scope"]) == (auth.user_id, ["zones"])
    profile = (await auth.client.get("/auth/oauth/userinfo", headers=bearer)).json()
    assert (profile["sub"], profile["email"]) == (auth.user_id, "ada@example.com")
    record = (await auth.client.get("/auth/authority", headers=bearer)).json()
    assert record["token_valid"] is True
    for wrong in ({}, {"Authorization": "Bearer x.y.z"}, {"Authorization": ""}):
        answer = await auth.client.get("/auth/oauth/userinfo", headers=wrong)
        assert (answer.status_code, answer.json()["error"]) == (401, "invalid_token")
        assert answer.headers["www-authenticate"].startswith("Bearer")


async def test_signing_out_ends_every_token_and_signing_in_again_works_at_once(auth: Any) -> None:
    for _ in range(3):
        content = await auth.sign_in()
        bearer = {"Authorization": f"Bearer {content['access_token']}"}
        assert (await auth.client.get("/auth/oauth/userinfo", headers=bearer)).status_code == 200
        answer = await auth.client.get("/auth/logout", headers=bearer)
        assert (answer.status_code, answer.headers["location"]) == (303, "/")
        assert (await auth.client.get("/auth/oauth/userinfo", headers=bearer)).status_code == 401
        assert (await auth.renew(content["refresh_token"])).json()["error"] == "invalid_grant"


@pytest.mark.parametrize(
    ("wish", "target"),
    [
        ("/backoffice/#/x", "/backoffice/#/x"),
        ("https://evil.example", "/"),
        ("//evil.example", "/"),
        ("/\\evil.example", "/"),
        ("", "/"),
    ],
)
async def test_after_signing_out_the_browser_stays_in_the_domain(
    auth: Any, wish: str, target: str
) -> None:
    answer = await auth.client.get("/auth/logout", params={"continue": wish})
    assert (answer.status_code, answer.headers["location"]) == (303, target)


# -- what else can go wrong -------------------------------------------------------------------


async def test_guessing_passwords_is_slowed_down(auth: Any) -> None:
    attacker, owner = {"X-Forwarded-For": "10.9.9.9"}, {"X-Forwarded-For": "10.1.1.1"}

    async def guess(headers: dict[str, str], **change: str) -> Any:
        return await auth.client.post("/auth/token", params=auth.grant(**change), headers=headers)

    answers = await asyncio.gather(*(guess(attacker, password=f"x{n}") for n in range(20)))
    statuses = [answer.status_code for answer in answers]
    assert statuses.count(400) == 5
    assert statuses.count(429) == 15
    last = await guess(attacker)
    assert (last.status_code, last.json()["error"]) == (429, "slow_down")
    assert 0 < int(last.headers["retry-after"]) <= 13
    assert (await guess(owner)).status_code == 200


async def test_the_log_shows_neither_passwords_nor_tokens(auth: Any) -> None:
    content = await auth.sign_in()
    await auth.client.post("/auth/token", params=auth.grant(password="a wrong secret"))
    await auth.client.post("/auth/oauth/token", params={"token": content["access_token"]})
    log = auth.log.read_text()
    assert "signed in" in log
    for secret in ("correct", "wrong secret", content["access_token"], content["refresh_token"]):
        assert secret not in log


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/auth/nothing", 404),
        ("GET", "/auth/token", 405),
        ("DELETE", "/auth/authority", 405),
        ("HEAD", "/auth/authority", 200),
    ],
)
async def test_other_routes_answer_in_json(auth: Any, method: str, path: str, status: int) -> None:
    answer = await auth.client.request(method, path, headers={"X-Request-ID": "abc"})
    assert answer.status_code == status
    assert answer.headers["x-request-id"] == "abc"
    assert answer.headers["content-type"].startswith("application/json")


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"x" * 100_000, "application/x-www-form-urlencoded"),
        (b"\xff\xfe", "application/x-www-form-urlencoded"),
        (b"{", "application/json"),
        (b"[]", "application/json"),
        (b"[" * 60_000, "application/json"),
        (b"&".join(b"a=1" for _ in range(100)), "application/x-www-form-urlencoded"),
        (b"x", "multipart/form-data; boundary=x"),
    ],
)
async def test_broken_bodies_are_invalid_requests(
    auth: Any, body: bytes, content_type: str
) -> None:
    answer = await auth.client.post(
        "/auth/token", content=body, headers={"Content-Type": content_type}
    )
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")


async def test_the_database_may_go_and_come_back(
    auth: Any, secrets_folder: Any, tmp_path: Any
) -> None:
    """Cut off, sign-in says 503 and the domain is still known; afterwards all is well."""
    async with auth.relay() as relay, auth.beside(relay.url, secrets_folder, tmp_path) as other:
        assert (await other.sign_in())["access_token"]
        await relay.cut()
        refused = await other.client.post("/auth/token", params=other.grant())
        assert refused.status_code == 503
        assert refused.json()["error"] == "temporarily_unavailable"
        assert "database" in refused.json()["error_description"]
        assert refused.headers["retry-after"] == "1"
        assert (await other.client.get("/auth/authority")).json()["domain"] == "localhost"
        await relay.mend()
        async with asyncio.timeout(30):
            while (await other.client.post("/auth/token", params=other.grant())).is_error:
                await asyncio.sleep(0.05)
        # The feed is back as well: a new domain becomes known.
        await auth.sql("UPDATE authority SET name = 'Renamed'")
        async with asyncio.timeout(30):
            while (await other.client.get("/auth/authority")).json()["name"] != "Renamed":
                await asyncio.sleep(0.05)


async def test_without_a_signing_key_the_service_does_not_start(auth: Any, tmp_path: Any) -> None:
    status, log = await auth.fails_to_start(tmp_path)
    assert status != 0
    assert "jwt.pem" in log
