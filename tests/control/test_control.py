"""The control websocket over real sockets and a real Redis; only the cores are stand-ins."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

META = {"sys": "sys-1", "mod": "Display", "index": 1, "name": "power"}


# -- the handshake --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "headers", "status", "error"),
    [
        ("", {}, 401, ""),
        ("bearer_token=nobody", {}, 401, "unknown token"),
        ("bearer_token=user", {"Host": "other.example"}, 401, "authority not found"),
        ("bearer_token=user", {"Upgrade": ""}, 426, "this address speaks websocket"),
        (
            "",
            {"Cookie": "bearer_token=user", "Origin": "http://evil"},
            403,
            "cookies of this site do not count from another origin",
        ),
    ],
)
async def test_a_refused_handshake_is_an_ordinary_error(
    control: Any, query: str, headers: dict[str, str], status: int, error: str
) -> None:
    with pytest.raises(Exception, match="refused") as raised:
        await control.client(query=query, headers={"X-Request-ID": "abc", **headers})
    refused: Any = raised.value
    assert (refused.status, json.loads(refused.body)) == (status, {"error": error})
    assert refused.headers["content-type"] == "application/json"
    assert refused.headers["x-request-id"] == "abc"


@pytest.mark.parametrize(
    ("scope", "admitted"),
    [
        (["public"], True),
        (["control.Write"], True),
        (["systems"], True),
        (["systems.Read"], False),
        (["public.Read"], False),
        (["zones"], False),
        (["guest", "control"], False),
        ([], False),
    ],
)
async def test_a_scope_admits(control: Any, scope: list[str], admitted: bool) -> None:
    control.authenticator.scope = scope
    if admitted:
        await (await control.client()).silent(0)
        return
    with pytest.raises(Exception, match="refused") as raised:
        await control.client()
    refused: Any = raised.value
    assert (refused.status, refused.body) == (403, b"")


@pytest.mark.parametrize(
    ("query", "headers"),
    [
        ("bearer_token=user", {"Host": "localhost:8080"}),
        ("", {"Authorization": "Bearer user"}),
        ("", {"Cookie": "a=b; bearer_token=user"}),
        ("", {"Cookie": "bearer_token=user", "Origin": "http://localhost"}),
        ("bearer_token=user", {"Origin": "http://elsewhere"}),
    ],
)
async def test_credentials_may_come_by_query_header_or_cookie(
    control: Any, query: str, headers: dict[str, str]
) -> None:
    client = await control.client(query=query, headers=headers)
    client.text("ping")
    assert await client.message() == "pong"


async def test_no_greeting_is_sent_and_ping_is_answered_at_once(control: Any) -> None:
    client = await control.client()
    await client.silent()


# -- live values ----------------------------------------------------------------------------


async def test_bind_answers_success_and_the_present_value_once(control: Any) -> None:
    await control.set("mod-1", "power", "true")
    client = await control.client()
    assert await client.ask(id=1, cmd="bind") == {"id": 1, "type": "success", "meta": META}
    message = client.others.pop() if client.others else await client.message()
    assert message == {"id": 1, "type": "notify", "value": True, "meta": META}
    await client.silent()


async def test_binding_again_repeats_nothing(control: Any) -> None:
    await control.set("mod-1", "power", "true")
    client = await control.client()
    await client.ask(id=1, cmd="bind")
    assert await client.value() is True
    assert (await client.ask(id=2, cmd="bind"))["type"] == "success"
    await client.silent()
    await control.set("mod-1", "power", "false")
    message = await client.message()
    assert (message["id"], message["value"]) == (1, False)
    await client.silent()


async def test_every_change_arrives_equal_ones_and_removal_too(control: Any, until: Any) -> None:
    client = await control.client()
    await client.ask(id=1, cmd="bind")
    await until(lambda: any("mod-1/power" in str(t) for t in control.bindings._topics))
    await client.silent()
    for value in ("1", "1", '{"a":[1,"ü"]}'):
        await control.set("mod-1", "power", value)
        assert await client.value() == json.loads(value)
    await control.set("mod-1", "power", None)
    assert await client.value() is None


async def test_what_does_not_exist_yet_binds_and_flows_once_mapped(control: Any) -> None:
    await control.set("mod-9", "power", '"new"')
    client = await control.client()
    assert (await client.ask(id=1, cmd="bind", sys="sys-9"))["type"] == "success"
    await client.silent()
    await control.place("sys-9", {"Display/1": "mod-9"})
    assert await client.value() == "new"


async def test_a_remap_moves_the_binding_and_sends_the_new_value(control: Any, until: Any) -> None:
    await control.set("mod-1", "power", "1")
    await control.set("mod-3", "power", "3")
    client = await control.client()
    await client.ask(id=1, cmd="bind")
    assert await client.value() == 1
    await control.place("sys-1", {"Display/1": "mod-3"})
    assert await client.value() == 3
    await control.set("mod-1", "power", "11")
    await client.silent()
    await control.place("sys-1", {"Display/1": "mod-3", "Other/1": "mod-1"})
    await client.silent()
    await control.place("sys-1", {})
    await until(lambda: not control.bindings._topics)
    await client.silent()
    await control.set("mod-3", "power", "33")
    await client.silent()


async def test_unbind_always_succeeds_and_ends_the_values(control: Any) -> None:
    client = await control.client()
    assert await client.ask(id=1, cmd="unbind") == {"id": 1, "type": "success"}
    await control.set("mod-1", "power", "1")
    await client.ask(id=2, cmd="bind")
    assert await client.value() == 1
    assert await client.ask(id=3, cmd="unbind") == {"id": 3, "type": "success"}
    await control.set("mod-1", "power", "2")
    await client.silent()
    await client.ask(id=4, cmd="bind")
    assert await client.value() == 2


async def test_protected_modules_need_support(control: Any) -> None:
    user, support = await control.client("user"), await control.client("support")
    assert await user.ask(id=1, cmd="bind", mod="_Hidden") == {
        "id": 1,
        "type": "error",
        "error_code": 2,
        "msg": "attempted to access protected module",
        "code": 500,
    }
    assert (await support.ask(id=1, cmd="bind", mod="_Hidden"))["type"] == "success"
    answer = await support.ask(id=2, cmd="bind", mod="_TRIGGER_", name="trig-1")
    assert answer["error_code"] == 6
    assert answer["msg"] == "could not find module: sys=sys-1 mod=_TRIGGER_"


async def test_closing_releases_all_bindings(control: Any, until: Any) -> None:
    clients = [await control.client() for _ in range(3)]
    for client in clients:
        await client.ask(id=1, cmd="bind")
    await until(lambda: control.bindings._topics)
    for client in clients:
        await client.close()
    await until(lambda: not control.bindings._topics)


# -- calls ----------------------------------------------------------------------------------


async def test_exec_passes_arguments_on_and_the_result_back(control: Any) -> None:
    client = await control.client("support")
    answer = await client.ask(id=1, cmd="exec", name="echo", args=[1, {"a": "ü"}])
    assert answer == {
        "id": 1,
        "type": "success",
        "value": [1, {"a": "ü"}],
        "meta": {**META, "name": "echo"},
        "code": 201,
    }
    header, _ = control.router.calls[0]
    assert (header.module, header.function, header.user) == ("mod-1", "echo", "user-support")
    assert (header.clearance, header.remaining) == (1, 10_000)
    assert (await client.ask(id=2, cmd="exec", name="echo"))["value"] == []
    assert (await client.ask(id=3, cmd="exec", name="echo", args=None))["value"] == []
    assert (await client.ask(id=4, cmd="exec", name="at_once"))["code"] == 200
    assert (await client.ask(id=6, cmd="exec", name="handed_over"))["waited"] == 1234
    assert (await client.ask(id=7, cmd="exec", name="not_handed_over"))["waited"] == 8000
    assert "waited" not in await client.ask(id=8, cmd="exec", name="at_once")
    assert (await client.ask(id=5, cmd="exec", name="garbled"))["value"] == "\ufffd\ufffd"


@pytest.mark.parametrize(
    ("function", "error_code", "code", "message"),
    [
        ("raise", 3, 418, "module raised: lamp missing (LampError)"),
        ("unknown", 1, 400, "could not find function unknown"),
        ("secret", 2, 401, "attempted to access privileged function secret"),
        ("wrong", 1, 400, "power: state should be a boolean"),
        ("lost", 7, 500, "the link was lost"),
    ],
)
async def test_failures_keep_their_kind_and_the_drivers_code(
    control: Any, function: str, error_code: int, code: int, message: str
) -> None:
    client = await control.client()
    assert await client.ask(id=1, cmd="exec", name=function) == {
        "id": 1,
        "type": "error",
        "error_code": error_code,
        "msg": message,
        "code": code,
    }


@pytest.mark.parametrize("where", [{"mod": "Nothing"}, {"index": 2}, {"sys": "sys-none"}])
async def test_exec_on_what_does_not_exist(control: Any, where: dict[str, Any]) -> None:
    client = await control.client()
    for id in (1, 2):  # read from Redis, then known from memory
        answer = await client.ask(id=id, cmd="exec", name="echo", **where)
        assert (answer["error_code"], answer["msg"]) == (6, "could not find module")


async def test_calls_run_side_by_side(control: Any) -> None:
    client = await control.client()
    client.send(id=1, cmd="exec", name="slow")
    client.send(id=2, cmd="exec", name="echo")
    assert (await client.message())["id"] == 2
    assert (await client.message())["id"] == 1


async def test_a_core_that_does_not_answer_is_not_waited_for(
    control: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("placeos.api.control.session.ANSWER_TIMEOUT", 0.3)
    client = await control.client()
    client.send(id=1, cmd="exec", name="nothing")
    await asyncio.sleep(0.1)
    client.send(id=2, cmd="exec", name="nothing")
    answers = [await client.answer(1), await client.answer(2)]
    assert [answer["error_code"] for answer in answers] == [3, 3]
    assert control.router.cancelled == 2


async def test_a_client_that_is_gone_cancels_its_calls(control: Any, until: Any) -> None:
    client = await control.client()
    client.send(id=1, cmd="exec", name="nothing")
    await until(lambda: control.router.calls)
    await client.close()
    await until(lambda: control.router.cancelled == 1)


# -- debug ----------------------------------------------------------------------------------


async def test_debug_streams_lines_until_ignored(control: Any) -> None:
    client = await control.client("support")
    for id in (1, 2):
        assert await client.ask(id=id, cmd="debug", mod="mod-1") == {"id": id, "type": "success"}
    (watcher,) = control.router.debugs["mod-1"]
    watcher(b'{"level":4,"message":"no answer"}')
    assert await client.message() == {
        "id": 1,
        "type": "debug",
        "mod": "mod-1",
        "level": "warn",
        "msg": "no answer",
        "meta": {**META, "mod": "mod-1"},
    }
    assert await client.ask(id=3, cmd="ignore", mod="mod-1") == {"id": 3, "type": "success"}
    assert control.router.debugs["mod-1"] == []


async def test_debug_needs_support(control: Any) -> None:
    client = await control.client("user")
    assert (await client.ask(id=1, cmd="debug", mod="mod-1"))["error_code"] == 2
    assert (await client.ask(id=2, cmd="ignore", mod="mod-1"))["type"] == "success"


# -- slow readers ---------------------------------------------------------------------------


async def test_a_slow_reader_gets_the_newest_value_and_others_every_one(
    control: Any, until: Any
) -> None:
    slow, quick = await control.client(), await control.client()
    for client in (slow, quick):
        await client.ask(id=1, cmd="bind")
    await until(lambda: control.bindings._topics)
    await quick.silent()
    filler = "x" * 50_000
    slow.writer.transport.pause_reading()
    for number in range(400):
        await control.set("mod-1", "power", json.dumps([number, filler]))
        assert (await quick.value())[0] == number
    slow.writer.transport.resume_reading()
    received = []
    while not received or received[-1] != 399:
        received.append((await slow.value())[0])
    assert received == sorted(received)
    assert len(received) < 400
    await slow.silent()


async def test_answers_that_nobody_reads_close_the_socket(control: Any) -> None:
    client = await control.client()
    client.writer.transport.pause_reading()
    for id in range(1000):
        client.send(id=id, cmd="exec", name="big")
        if id % 50 == 0:
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.3)
    client.writer.transport.resume_reading()
    assert (await client.closed()).code in (1013, None)


async def test_a_burst_arrives_whole_and_in_order(control: Any) -> None:
    client = await control.client()
    await client.ask(id=1, cmd="bind")
    async with asyncio.timeout(5):  # what is published before is nowhere to be read
        while not (await control.store.pubsub_numsub("status/mod-1/power"))[0][1]:
            await asyncio.sleep(0.01)
    await client.silent()
    async with control.store.pipeline() as pipe:
        for number in range(500):
            pipe.publish("status/mod-1/power", json.dumps([number, "x" * (number % 7 * 60)]))
        await pipe.execute()
    assert [(await client.value())[0] for _ in range(500)] == list(range(500))


async def test_stopping_the_service_says_so_to_every_client(
    control: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("placeos.api.control.server.CLOSE_GRACE", 60.0)
    clients = [await control.client() for _ in range(3)]
    stopping = asyncio.create_task(control.stop())
    for client in clients:
        assert (await client.closed()).code == 1001
        await client.close()
    async with asyncio.timeout(20):  # it does not wait for those that have gone
        await stopping
    with pytest.raises(ConnectionError):
        await control.client()
