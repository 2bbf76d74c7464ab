"""SSH on real sockets, at the level of a connection."""

from __future__ import annotations

import asyncio
import contextlib

import asyncssh
import pytest

from placeos.driver.errors import DriverError, NoReply, Offline
from placeos.driver.transports.ssh import SSH, LoginRefused
from placeos.driver.transports.ssh_connection import AT_A_TIME

LINES = SSH(ends_with=b"\n")


@pytest.fixture
def open_ssh(open_transport, device, login):
    """Connects to the device, with the right login unless told otherwise."""

    async def open_one(transport=LINES, to=None, **settings):
        return await open_transport(
            transport, host="127.0.0.1", port=(to or device).port, settings=login(**settings)
        )

    return open_one


async def test_shell_both_ways(open_ssh, device):
    device.greeting = b"hello\n"
    opened = await open_ssh(term="xterm")
    await opened.says(b"hello")
    opened.connection.write(LINES.encode("power on"))
    assert await device.types() == b"power on\n"
    device.shells[0].stdout.write(b"\xffone\ntw")
    device.shells[0].stdout.write(b"o\n")
    device.shells[0].stderr.write(b"three\n")
    await opened.says(b"hello", b"\xffone", b"two", b"three")
    assert device.terminals == [("xterm", (250, 250), 0)]


async def test_messages_wait_until_the_connection_is_taken_into_use(open_transport, device, login):
    device.greeting = b"early\n"
    opened = await open_transport(
        LINES, host="127.0.0.1", port=device.port, settings=login(), adopt=False
    )
    await asyncio.sleep(0.1)
    assert opened.messages == []
    opened.connection.adopt(opened.lost)
    await opened.says(b"early")


@pytest.mark.parametrize("kind", ["ssh-ed25519", "ssh-rsa", "ecdsa-sha2-nistp256"])
async def test_login_by_key(open_ssh, device, kind):
    key = asyncssh.generate_private_key(kind)
    device.key = key.convert_to_public()
    pem = key.export_private_key("pkcs1-pem" if kind == "ssh-rsa" else "openssh").decode()
    await open_ssh(password=None, private_key=pem)
    assert device.logins[-1] == "key"


async def test_key_with_a_passphrase(open_ssh, device):
    key = asyncssh.generate_private_key("ssh-ed25519")
    device.key = key.convert_to_public()
    pem = key.export_private_key(passphrase="open").decode()
    await open_ssh(password=None, private_key=pem, passphrase="open")
    with pytest.raises(DriverError, match=r"'ssh\.passphrase' is missing"):
        await open_ssh(private_key=pem)
    with pytest.raises(DriverError, match=r"'ssh\.passphrase' does not open"):
        await open_ssh(private_key=pem, passphrase="wrong")
    with pytest.raises(DriverError, match=r"'ssh\.private_key' is not usable"):
        await open_ssh(private_key="nonsense")


@pytest.mark.parametrize("questions", [["Password: "], ["Code?", "And again?"], []])
async def test_questions_are_answered_with_the_password(open_ssh, device, questions):
    device.kinds = {"questions"}
    device.questions = questions
    await open_ssh()
    assert len(device.logins) == 1


async def test_refused_logins(open_ssh, device):
    both = {"password", "questions"}
    for kinds in ({"password"}, {"questions"}, both, {"key"}, set()):
        device.kinds, device.questions, device.logins = kinds, ["Password:"], []
        with pytest.raises(LoginRefused, match="refuses") as caught:
            await open_ssh(password="wrong")
        assert caught.value.pause >= 60
        assert "wrong" not in str(caught.value)
        assert len(device.logins) <= 1
    await asyncio.wait_for(device.gone.wait(), 10)


async def test_host_key_is_shown_and_can_be_pinned(open_ssh, device):
    public = device.host_key.export_public_key().decode()
    other = asyncssh.generate_private_key("ssh-ed25519")
    opened = await open_ssh()
    assert opened.connection.host_key == device.fingerprint
    for pin in (device.fingerprint, public, [other.get_fingerprint("sha256"), public]):
        await open_ssh(host_key=pin)
    logins = len(device.logins)
    for pin in (other.get_fingerprint("sha256"), other.export_public_key().decode()):
        with pytest.raises(DriverError, match=r"is not the one of ssh\.host_key; if") as caught:
            await open_ssh(host_key=pin)
        assert device.fingerprint in str(caught.value)
    assert len(device.logins) == logins, "the password went to a wrong device"
    with pytest.raises(DriverError, match=r"'ssh\.host_key': expected SHA256"):
        await open_ssh(host_key="MD5:00")


async def test_pinned_key_among_several(open_ssh, listening):
    rsa = asyncssh.generate_private_key("ssh-rsa")
    ed = asyncssh.generate_private_key("ssh-ed25519")
    async with listening(server_host_keys=[ed, rsa]) as device:
        for key in (rsa, ed):  # whichever comes first by itself
            opened = await open_ssh(to=device, host_key=key.export_public_key().decode())
            assert opened.connection.host_key == key.get_fingerprint("sha256")


async def test_settings_are_checked(open_transport):
    for settings, words in [
        ({}, "setting 'ssh' is missing"),
        ({"ssh": {}}, "username"),
        ({"ssh": {"username": "u", "keepalive": -1}}, r"'ssh\.keepalive'"),
        ({"ssh": {"username": 1}}, r"'ssh\.username': expected str"),
    ]:
        with pytest.raises(DriverError, match=words):
            await open_transport(LINES, host="127.0.0.1", port=1, settings=settings)


async def test_lost_connections_say_why(open_ssh, device):
    opened = await open_ssh()
    device.shells[-1].exit(0)
    assert await opened.reason() == "the device closed the shell"
    opened = await open_ssh()
    device.connections[-1].disconnect(asyncssh.DISC_TOO_MANY_CONNECTIONS, "going down")
    assert "going down" in await opened.reason()
    opened = await open_ssh()
    device.connections[-1].abort()
    assert "onnection" in await opened.reason()
    opened.connection.write(b"harmless")
    opened = await open_ssh()
    opened.connection.drop("changed")
    assert await opened.reason() == "changed"
    assert opened.reasons == ["changed"]
    await opened.connection.wait_closed()


async def test_silent_device_is_lost(open_ssh, device):
    """A proxy that stops passing anything on plays the pulled plug."""
    pipes = []
    stalled = asyncio.Event()

    async def handle(reader, writer) -> None:
        their_reader, their_writer = await asyncio.open_connection("127.0.0.1", device.port)

        async def pipe(source, sink) -> None:
            while (data := await source.read(65536)) and not stalled.is_set():
                sink.write(data)

        pipes.extend(
            asyncio.ensure_future(p)
            for p in (pipe(reader, their_writer), pipe(their_reader, writer))
        )

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    device.port, port = server.sockets[0].getsockname()[1], device.port
    to, device.port = device.port, port

    class Way:
        pass

    way = Way()
    way.port = to
    opened = await open_ssh(to=way, keepalive=0.2)
    stalled.set()
    assert "keepalive" in (await opened.reason()).lower()
    for pipe in pipes:
        pipe.cancel()
    server.close()


async def test_what_is_no_ssh_server(open_ssh):
    async def handle(reader, writer) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 100)
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)

    class Way:
        port = server.sockets[0].getsockname()[1]

    with pytest.raises((DriverError, ConnectionError)):
        await open_ssh(to=Way)
    server.close()


async def test_cancelled_login_leaves_nothing_open(open_ssh):
    ended = asyncio.Event()

    async def handle(reader, writer) -> None:
        with contextlib.suppress(ConnectionResetError):
            await reader.read()
        ended.set()
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)

    class Way:
        port = server.sockets[0].getsockname()[1]

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await open_ssh(to=Way)
    await asyncio.wait_for(ended.wait(), 10)
    server.close()


async def test_old_algorithms_on_demand(open_ssh, listening):
    old = {
        "kex_algs": ["diffie-hellman-group1-sha1"],
        "encryption_algs": ["3des-cbc"],
        "mac_algs": ["hmac-sha1"],
        "server_host_keys": [asyncssh.generate_private_key("ssh-rsa")],
        "signature_algs": ["ssh-rsa"],
    }
    async with listening(**old) as device:
        with pytest.raises(DriverError, match=r"ssh\.insecure: true"):
            await open_ssh(to=device)
        await open_ssh(to=device, insecure=True)


async def test_prompts_and_pagers(open_ssh, device):
    device.greeting = b"Welcome\r\nswitch> "
    transport = SSH(prompt=rb"\w+[>#] ?", pager=rb"--More--")
    opened = await open_ssh(transport)
    opened.connection.write(transport.encode("show"))
    assert await device.types() == b"show\n"
    device.shells[0].stdout.write(b"one\r\n--More--")
    assert await device.types() == b" "
    device.shells[0].stdout.write(b"\r        \rtwo\r\nswitch> ")
    await opened.says(b"one\r\ntwo")


async def test_no_prompt_no_connection(open_ssh, device):
    device.greeting = b"Welcome\r\nlogin: "
    with pytest.raises(DriverError, match="no such prompt but 'login: '"):
        await open_ssh(SSH(prompt=rb"switch#"))
    await asyncio.wait_for(device.gone.wait(), 10)


async def test_commands_beside_the_shell(open_ssh, device):
    opened = await open_ssh()
    run = opened.connection.run
    output = await run("cat", stdin="grüße")
    assert (output.stdout, output.stderr, output.status) == ("grüße", "", 0)
    output = await run("fail")
    assert (output.stdout, output.stderr, output.status) == ("some\n", "bad\n", 3)
    with pytest.raises(NoReply, match=r"within 0\.3 s"):
        await run("hang", timeout=0.3)
    await asyncio.wait_for(device.given_up.wait(), 10)
    with pytest.raises(DriverError, match="prints more than"):
        await run("flood")
    assert len(await asyncio.gather(*(run("wait") for _ in range(9)))) == 9
    assert device.most_running == 4, "some devices allow few sessions"
    assert opened.reasons == []
    hanging = asyncio.create_task(run("hang"))
    await asyncio.sleep(0.1)
    device.connections[-1].abort()
    with pytest.raises(Offline, match="connection was lost"):
        await hanging
    with pytest.raises(Offline, match="not connected"):
        await run("cat")


async def test_without_a_shell(open_ssh, device):
    transport = SSH(shell=False)
    opened = await open_ssh(transport)
    assert (await opened.connection.run("cat", stdin=b"x")).stdout == "x"
    assert device.opened == 0
    with pytest.raises(DriverError, match=r"by self\.ssh\.run"):
        transport.encode("x")


async def test_device_that_allows_no_terminal(open_ssh, listening):
    async with listening(allow_pty=False) as device:
        device.greeting = b"plain\n"
        opened = await open_ssh(to=device)
        await opened.says(b"plain")


async def test_device_that_takes_nothing_is_dropped(open_ssh, listening):
    async with listening(window=1024) as device:
        opened = await open_ssh(to=device)
        device.shells[-1].channel.pause_reading()
        for _ in range(20):
            opened.connection.write(b"x" * 100_000)
        assert await opened.reason() == "the device does not take what is sent"


async def test_flood_of_empty_lines_leaves_the_others_their_turn(open_ssh, device):
    count = 1_000_000
    opened = await open_ssh(SSH(ends_with=b"\n"))
    device.shells[0].stdout.write(b"\n" * count)
    most = before = len(opened.messages)
    async with asyncio.timeout(60):
        while before < count:
            await asyncio.sleep(0)
            most, before = max(most, len(opened.messages) - before), len(opened.messages)
    assert most <= AT_A_TIME
