"""What driver processes write to standard output and error."""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import json
import os
import threading

import pytest

from placeos.core.process import output as outputs
from placeos.core.process.output import Output


@pytest.fixture
def passed(capsysbinary):
    """What core passes on, as lines."""
    kept = bytearray()

    def lines() -> list[bytes]:
        kept.extend(capsysbinary.readouterr().err)
        return bytes(kept).splitlines()

    return lines


async def test_a_stack_is_found_whatever_the_folder_is_called(tmp_path, until):
    file = tmp_path / "Büro 日本 'x\"" / "driver.py"
    code = "def hang():\n    dump()\n\nhang()\n"
    output = Output()
    try:
        kept = os.dup(output.write_end)

        def dump() -> None:
            faulthandler.dump_traceback(kept)

        exec(compile(code, str(file), "exec"), {"dump": dump})
        os.close(kept)
        found = await until(lambda: output.stack(str(file), 0.0))
    finally:
        output.close()
    assert found == "driver.py:2 in hang"


async def test_lines_carry_the_name_of_their_driver(passed):
    output = Output('odd "one".py')
    os.write(output.write_end, b'{"level":"warning","event":"x"}\nplain \xff\n\nlast words')
    output.close()
    log, plain, empty, last = map(json.loads, passed())
    assert {line["driver"] for line in (log, plain, empty, last)} == {'odd "one".py'}
    assert log["level"] == "warning"
    assert plain["event"] == "plain \N{REPLACEMENT CHARACTER}"
    assert last["event"] == "last words"
    assert output.last_words() == "plain \N{REPLACEMENT CHARACTER}\n\nlast words"


async def test_a_flood_is_bounded_counted_and_waits_for_itself(passed, until, caplog):
    output, quiet = Output("flood.py"), Output("quiet.py")
    ends = threading.Event()

    def flood() -> None:
        with contextlib.suppress(BrokenPipeError):
            while not ends.is_set():
                os.write(output.write_end, b"water " * 100 + b"\n")

    thread = threading.Thread(target=flood)
    thread.start()
    longest = 0.0
    loop = asyncio.get_running_loop()
    try:
        began = loop.time()
        while loop.time() - began < 1.5:
            before = loop.time()
            await asyncio.sleep(0.005)
            longest = max(longest, loop.time() - before)
        os.write(quiet.write_end, b"heard all the same\n")
        await until(lambda: any(b"heard all the same" in line for line in passed()))
        seconds = loop.time() - began
    finally:
        ends.set()
        thread.join(10)
        output.close()
        quiet.close()
    most = outputs.BURST + seconds * outputs.ALLOWANCE
    assert sum(map(len, passed())) < 1.5 * most
    assert output.received < (seconds / outputs.SLICE + 10) * outputs.CHUNK
    assert longest < 0.5
    assert "driver output dropped" in caplog.text


async def test_a_line_without_an_end_takes_no_memory(passed):
    output = Output("endless.py")
    os.set_blocking(output.write_end, False)
    for _ in range(50):
        with contextlib.suppress(BlockingIOError):
            os.write(output.write_end, b"x" * 60_000)
        await asyncio.sleep(0.005)
    assert len(output._rest) <= outputs.MAX_LINE
    assert len(output.last_words()) <= outputs.LAST[1]
    output.close()
