"""What a test of a driver says when the driver is wrong."""

from __future__ import annotations

import textwrap

import pytest

from placeos.driver.testing import (
    FakeClock,
    ScriptedDevice,
    ScriptedHTTP,
    ScriptedWebSocket,
    drive,
)

BRIEF = 0.2  # seconds

LAMP = '''
    """Lamps."""
    from placeos.driver import TCP, Driver, Settings


    class Lamp(Driver[Settings]):
        transport = TCP(port=7000, ends_with=b"\\n")

        async def connected(self) -> None:
            self.log.info("switching it off")
            self["power"] = False
            await self.send("power of", wait=False)

        async def fail(self) -> None:
            raise ZeroDivisionError("a mistake")
'''


@pytest.fixture
def lamp(tmp_path):
    file = tmp_path / "lamp.py"
    file.write_text(textwrap.dedent(LAMP))
    return file


def told(error: BaseException) -> str:
    """Message and notes, as pytest prints them."""
    return "\n".join([str(error), *error.__notes__])


async def test_what_was_expected_and_sent_and_what_the_log_said(lamp):
    async def run() -> None:
        async with drive(lamp) as module:
            await module.should_send(b"power o")
            await module.should_send(b"ff\n", timeout=BRIEF)

    with pytest.raises(AssertionError) as failure:
        await run()
    text = told(failure.value)
    assert "expected b'ff\\n', got b'f\\n' within 0.2 s" in text
    assert "switching it off" in text
    assert 'sent 9 bytes  "power of\\n"' in text
    assert "power = False" in text


async def test_a_plain_assertion_is_told_the_same(lamp):
    async def run() -> None:
        async with drive(lamp) as module:
            await module.should_send(b"power of\n")
            await module.status("power", False)
            assert module.state["power"] is True

    with pytest.raises(AssertionError) as failure:
        await run()
    assert "sent 9 bytes" in told(failure.value)


async def test_an_exception_of_the_driver_has_its_place(lamp):
    async with drive(lamp) as module:
        with pytest.raises(Exception, match="a mistake") as failure:
            await module.exec("fail")
        assert failure.value.kind == "ZeroDivisionError"
        assert any("lamp.py" in line for line in failure.value.backtrace)


async def test_status_log_and_faults_that_do_not_come(lamp):
    async with drive(lamp) as module:
        with pytest.raises(AssertionError, match=r"status 'power' is False and not True within"):
            await module.status("power", True, timeout=BRIEF)
        with pytest.raises(AssertionError, match="no line of the log has 'nonsense'"):
            await module.expect_log("nonsense", timeout=BRIEF)
        with pytest.raises(AssertionError, match="no fault has 'nonsense': there was none"):
            await module.fault("nonsense", timeout=BRIEF)
        with pytest.raises(AssertionError, match="nothing was published on 'news'"):
            await module.expect_published("news", timeout=BRIEF)


async def test_a_device_that_nobody_speaks_to():
    device, service, socket = ScriptedDevice(), ScriptedHTTP(), ScriptedWebSocket()
    with pytest.raises(AssertionError, match="expected b'on', got b'' within"):
        await device.should_send(b"on", timeout=BRIEF)
    with pytest.raises(AssertionError, match="nothing was sent within"):
        await device.expect_send(timeout=BRIEF)
    with pytest.raises(AssertionError, match=r"expected 1 connection\(s\), got 0 within"):
        await device.expect_connection(1, timeout=BRIEF)
    with pytest.raises(AssertionError, match=r"expected b'x' 2 time\(s\), got \[\] within"):
        await device.expect_request(b"x", 2, timeout=BRIEF)
    with pytest.raises(AssertionError, match="expected PUT /power, got nothing within"):
        await service.expect_request("PUT", "/power", timeout=BRIEF)
    with pytest.raises(AssertionError, match="expected 'on', got nothing within"):
        await socket.should_send("on", timeout=BRIEF)


async def test_a_file_that_cannot_be_used_says_where(tmp_path):
    file = tmp_path / "lamp.py"
    file.write_text("x = (\n")
    with pytest.raises(AssertionError, match=r"lamp.py:1: SyntaxError"):
        async with drive(file):
            pass


async def test_a_clock_that_was_not_given(lamp):
    async with drive(lamp) as module:
        with pytest.raises(AssertionError, match=r"give drive\(…, clock=FakeClock\(\)\)"):
            await module.clock.advance(1)
    async with drive(lamp, clock=FakeClock()) as module:
        assert module.clock.passed < 60
