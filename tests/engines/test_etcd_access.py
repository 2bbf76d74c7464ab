"""Being let in: TLS with certificates, user and password; and what never shows."""

from __future__ import annotations

import asyncio
import logging

import msgspec
import pytest
from authority import Authority
from servers import running, until

from placeos.cluster.access import EtcdAccess
from placeos.cluster.etcd import Etcd, EtcdError, Put

PASSWORD = "a very secret password"


async def test_tls_with_a_client_certificate(
    make_etcd, etcd_for_several, authority, tmp_path
) -> None:
    cluster = await make_etcd(etcd_for_several, size=1, authority=authority)
    async with Etcd(cluster.access) as etcd:
        assert await etcd.txn([], [Put("t/a", b"1")])
        async with asyncio.timeout(5):
            async for changes in etcd.watch("t/", 1):
                if changes.events:
                    break
    stranger = Authority(tmp_path / "stranger")
    for access in (
        msgspec.structs.replace(cluster.access, cert=None, key=None),
        msgspec.structs.replace(cluster.access, ca=stranger.ca),
        msgspec.structs.replace(
            cluster.access, cert=stranger.client.certificate, key=stranger.client.key
        ),
    ):
        async with Etcd(access) as etcd:
            with pytest.raises(EtcdError):
                await etcd.list("t/")


async def test_a_certificate_that_cannot_be_read_is_named(tmp_path) -> None:
    access = EtcdAccess(("https://127.0.0.1:9",), ca=tmp_path / "nothing.pem")
    with pytest.raises(EtcdError, match="certificates for etcd cannot be used"):
        async with Etcd(access):
            pass


@pytest.fixture
async def guarded(make_etcd, etcd_for_several) -> EtcdAccess:
    """An etcd that asks for a user; its tokens live for two seconds without use."""
    options = ("--auth-token-ttl=2",) if etcd_for_several.version >= (3, 5) else ()
    cluster = await make_etcd(etcd_for_several, size=1, options=options)
    at = cluster.members[0]
    for words in (
        ("user", "add", f"root:{PASSWORD}"),
        ("role", "add", "placeos"),
        ("role", "grant-permission", "placeos", "readwrite", "t/", "--prefix"),
        ("user", "add", f"placeos:{PASSWORD}"),
        ("user", "grant-role", "placeos", "placeos"),
        ("auth", "enable"),
    ):
        await asyncio.to_thread(cluster.ctl, *words, at=at)
    return EtcdAccess(cluster.endpoints, user="placeos", password=PASSWORD)


async def test_user_and_password(guarded: EtcdAccess, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with Etcd(guarded) as etcd:
        assert await etcd.txn([], [Put("t/a", b"1")])
        lease = await etcd.grant(60)
        await etcd.txn([], [Put("t/b", b"1", lease)])
        assert (await etcd.renew(lease, "t/")).ttl == 60
        seen = []

        async def follow() -> None:
            async for news in etcd.follow("t/"):
                seen.append(news)  # noqa: PERF401 - it never ends

        async with running(follow()):
            await until(lambda: seen)
            # As after a restart of etcd or two quiet minutes: what we hold is worth nothing.
            etcd._gateway._token = "gone.7"
            await etcd.txn([], [Put("t/a", b"2")])
            await until(lambda: len(seen) == 2)
            etcd._gateway._token = "gone.8"
            with pytest.raises(EtcdError, match=r"token|denied"):
                async for _ in etcd.watch("t/", 1):
                    pass
            assert etcd._gateway._token != "gone.8"
            etcd._gateway._token = "gone.9"
            await etcd._gateway.close()
            await etcd._gateway.open()  # whoever follows loses the watch, and comes with that token
            await etcd.txn([], [Put("t/a", b"3")])
            await until(lambda: seen[-1].events[-1].item.value == b"3")
        with pytest.raises(EtcdError, match="permission denied") as refused:
            await etcd.list("elsewhere/")
        token = etcd._gateway._token
    shown = f"{refused.value!r} {guarded!r} {guarded} {caplog.text}"
    assert PASSWORD not in shown
    assert token not in shown
    async with Etcd(msgspec.structs.replace(guarded, password="wrong secret")) as etcd:
        with pytest.raises(EtcdError, match="authentication failed") as refused:
            await etcd.list("t/")
    assert "wrong secret" not in repr(refused.value)
