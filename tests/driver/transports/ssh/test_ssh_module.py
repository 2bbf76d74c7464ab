"""Modules on SSH in a real driver process; and OpenSSH, where it is installed."""

from __future__ import annotations

import asyncssh
import pytest

from placeos.driver.testing import CallError, drive
from placeos.driver.transports.ssh import SSH

SWITCH = """
    import sys
    from placeos.driver import SSH, TCP, Driver

    class Switch(Driver):
        transport = TCP(port=23, ends_with=b"\\r\\n") | SSH(prompt=rb"\\w+# ?")

        async def connected(self):
            self["by"] = self.config.role

        async def show(self, what: str) -> str:
            return (await self.send(f"show {what}")).decode()

        async def run(self, command: str) -> list:
            output = await self.ssh.run(command)
            return [output.stdout, output.status]

        async def loaded(self) -> list[str]:
            return sorted({"httpx", "picows", "asyncssh"} & sys.modules.keys())
"""


async def test_module_talks_to_a_shell_and_reconnects(write_driver, device, login):
    device.greeting = b"hi\r\nswitch# "
    file = write_driver(SWITCH)
    async with drive(file, role=0, port=device.port, settings=login()) as switch:
        assert switch.defaults.roles == [1, 0]
        await switch.status("by", 0)
        assert switch.state["ssh_host_key"]["fingerprint"] == device.fingerprint
        call = switch.exec("show", "version")
        assert await device.types() == b"show version\n"
        device.shells[-1].stdout.write(b"1.2\r\nswitch# ")
        assert await call == "1.2"
        assert await switch.exec("run", "fail") == ["some\n", 3]
        assert await switch.exec("loaded") == ["asyncssh"]
        device.connections[-1].abort()
        await switch.status("connected", False)
        await switch.status("connected", True)
        assert device.opened == 2


async def test_wrong_password_is_told_once_and_mended_by_the_settings(write_driver, device, login):
    device.greeting = b"switch# "
    file = write_driver(SWITCH)
    wrong = login(password="wrong")
    async with drive(file, role=0, port=device.port, settings=wrong, connected=False) as switch:
        fault = await switch.fault("refuses this name with this password")
        assert "wrong" not in fault
        await switch.status("connected", False, timeout=15)
        assert len(device.logins) == 1, "it would lock the account"
        with pytest.raises(CallError, match="not connected"):
            await switch.exec("run", "cat")
        await switch.update(**login())
        await switch.status("connected", True, timeout=15)


def seen(device, **other) -> dict:
    """The state of a module that has met the device before."""
    public = " ".join(device.host_key.export_public_key().decode().split()[:2])
    address = f"127.0.0.1:{device.port}"
    known = {"address": address, "fingerprint": device.fingerprint, "key": public}
    return {"ssh_host_key": known | other}


async def test_another_host_key_than_before_is_refused(write_driver, device, login):
    device.greeting = b"switch# "
    file = write_driver(SWITCH)
    before = seen(device)
    device.host_key = asyncssh.generate_private_key("ssh-ed25519")
    async with device.restarted():
        how = {"role": 0, "port": device.port, "state": before, "connected": False}
        async with drive(file, settings=login(), **how) as switch:
            fault = await switch.fault(f"shows the key {device.fingerprint} and before SHA256:")
            await switch.status("connected", False, timeout=15)
            assert device.logins == [], "the password went to another device"
            assert "ssh_host_key" not in switch.state, "it is remembered as it was"
            assert f"give ssh.host_key: {device.fingerprint}" in fault
            await switch.update(**login(host_key=device.fingerprint))
            await switch.status("connected", True, timeout=15)
            await switch.status("ssh_host_key", seen(device)["ssh_host_key"])
            await switch.update(**login())  # it is remembered from now on
            await device.has_opened(2)
            await switch.status("connected", True)


@pytest.mark.parametrize(
    ("address", "host_key"), [("127.0.0.1:1", None), (None, "any")], ids=["elsewhere", "any"]
)
async def test_when_another_host_key_is_taken(write_driver, device, login, address, host_key):
    device.greeting = b"switch# "
    other = asyncssh.generate_private_key("ssh-ed25519")
    public = " ".join(other.export_public_key().decode().split()[:2])
    before = seen(device, key=public, fingerprint=other.get_fingerprint("sha256"))
    before["ssh_host_key"] |= {"address": address} if address else {}
    how = {"role": 0, "port": device.port, "state": before}
    settings = login(host_key=host_key)
    async with drive(write_driver(SWITCH), settings=settings, **how) as switch:
        await switch.status("ssh_host_key", seen(device)["ssh_host_key"])
        warned = any("shows the host key" in line.message for line in switch.logs)
        assert warned == (host_key == "any")


async def test_other_transports_have_no_ssh(write_driver):
    async with drive(write_driver(SWITCH), role=1) as switch:
        with pytest.raises(CallError, match=r"self\.ssh is for modules on SSH"):
            await switch.exec("run", "cat")
        assert await switch.exec("loaded") == []


async def test_openssh(openssh, open_transport):
    transport = SSH(ends_with=b"\n")
    opened = await open_transport(
        transport, host="127.0.0.1", port=openssh.port, settings=openssh.settings()
    )
    output = await opened.connection.run("cat; echo oops >&2; exit 4", stdin="piped")
    assert (output.stdout, output.stderr, output.status) == ("piped", "oops\n", 4)
    assert (await opened.connection.run("kill -9 $$")).status is None
    opened.connection.write(transport.encode("stty -a | tr ' ' '\\n' | grep echo$; echo $((40+2))"))
    await opened.until(lambda: any(m.strip() == b"42" for m in opened.messages))
    assert any(m.strip() == b"-echo" for m in opened.messages)
    opened.connection.write(transport.encode("exit"))
    assert await opened.reason() == "the device closed the shell"
