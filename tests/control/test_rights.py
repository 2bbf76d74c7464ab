"""What a control websocket does when its user's rights change or its token expires."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest


async def test_sign_out_closes_open_sockets(control: Any) -> None:
    gone, stays = await control.client("support"), await control.client("user")
    control.authenticator.change(support=None)
    closed = await gone.closed()
    assert (closed.code, closed.reason) == (1008, "unknown token")
    stays.text("ping")
    assert await stays.message() == "pong"


async def test_lost_rights_end_what_needed_them(control: Any, until: Any) -> None:
    client = await control.client("support")
    await control.place("sys-1", {"_Hidden/1": "mod-8", "Display/1": "mod-1"})
    await client.ask(id=1, cmd="bind", mod="_Hidden")
    await client.ask(id=2, cmd="bind")
    await client.ask(id=3, cmd="debug", mod="mod-1")
    control.authenticator.change(support=0)
    await until(lambda: control.router.debugs["mod-1"] == [])
    await control.set("mod-8", "power", "8")
    await control.set("mod-1", "power", "1")
    assert await client.value() == 1
    assert (await client.ask(id=4, cmd="debug", mod="mod-1"))["error_code"] == 2
    await client.ask(id=5, cmd="exec", name="echo")
    assert control.router.calls[-1][0].clearance == 0


async def test_a_token_that_expires_ends_its_socket(control: Any) -> None:
    control.authenticator.lifetime = 1.0
    client = await control.client("user")
    control.authenticator.rights.pop("user")
    assert (await client.closed()).code == 1008


async def test_credentials_that_are_renewed_keep_their_socket(control: Any) -> None:
    control.authenticator.lifetime = 1.0
    client = await control.client("user")
    control.authenticator.lifetime = 100.0
    await asyncio.sleep(1.3)
    client.text("ping")
    assert await client.message() == "pong"


async def test_pong_comes_unasked(control: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("placeos.api.control.server.PONG_EVERY", 0.1)
    client = await control.client()
    for _ in range(2):
        assert await client.message() == "pong"
