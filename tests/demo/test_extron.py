"""The switcher simulator against the published examples of Extron's SIS (DXP user guide)."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from placeos.local.demo.extron import Matrix, MatrixDevice, split
from placeos.local.demo.journal import commands, read


@pytest.mark.parametrize(
    ("command", "reply"),
    [
        # the examples of the table "Create Ties"
        ("1*3!", "Out3 In1 All"),
        ("0*3!", "Out3 In0 All"),
        ("8*4&", "Out4 In8 RGB"),
        ("7*5%", "Out5 In7 Vid"),
        ("6*4$", "Out4 In6 Aud"),
        ("\x1b+Q3*4%3*5%3*6!", "Qik"),
        ("5*!", "In5 All"),
        ("5*&", "In5 RGB"),
        ("02*02&", "Out2 In2 RGB"),
        # its error codes
        ("9*1!", "E01"),
        ("1*9!", "E12"),
        ("1*0!", "E12"),
        ("0!", "E12"),
        ("!", "E10"),
        ("?", "E10"),
        ("1*2*3!", "E10"),
        ("99.", "E11"),
        ("3.", "E11"),
        ("1*7B", "E13"),
        ("\x1bWHAT", "E10"),
        # information
        ("I", "V8X8 A8X8"),
        ("q", "1.06"),
    ],
)
def test_published_examples(command, reply):
    assert Matrix(8, 8).obey(command)[0] == reply


def test_ties_are_read_back_by_plane():
    matrix = Matrix(8, 8)
    matrix.obey("3*2!")
    matrix.obey("5*2$")
    assert [matrix.obey(query)[0] for query in ("2!", "2&", "2%", "2$")] == ["3", "3", "3", "5"]


def test_quick_multiple_tie_is_all_or_nothing():
    matrix = Matrix(8, 8)
    assert matrix.obey("\x1b+Q3*4!9*5!")[0] == "E01"
    assert matrix.obey("4!")[0] == "0"


def test_presets_recall_ties():
    matrix = Matrix(8, 8)
    matrix.obey("3*2!")
    assert matrix.obey("1,") == ("Spr1", True)
    matrix.obey("0*!")
    assert matrix.obey("1.") == ("Rpr1", True)
    assert matrix.obey("2!")[0] == "3"


def test_mutes():
    matrix = Matrix(8, 8)
    assert matrix.obey("2*1B") == ("Vmt2*1", True)
    assert matrix.obey("2B") == ("1", False)
    assert matrix.obey("*1Z") == ("Amt1", True)
    assert matrix.obey("8Z") == ("1", False)


def test_commands_back_to_back_without_terminator():
    assert split(b"1*1!02*02&003*003%4*8$") == (["1*1!", "02*02&", "003*003%", "4*8$"], b"")


@given(st.lists(st.sampled_from(["1*1!", "2$", "I", "\x1b+Q3*4!\r", "5*!\r\n"]), max_size=8))
def test_split_does_not_depend_on_how_bytes_arrive(parts):
    data = "".join(parts).encode()
    whole, rest = split(data)
    assert rest == b""
    piecewise, pending = [], b""
    for byte in data:
        found, pending = split(pending + bytes([byte]))
        piecewise += found
    assert piecewise == whole == [part.strip() for part in parts]


@given(st.binary(max_size=60))
def test_any_bytes_get_replies(data):
    commands, _ = split(data)
    matrix = Matrix(8, 8)
    assert all(matrix.obey(command)[0] for command in commands)


async def connect(device):
    reader, writer = await asyncio.open_connection("127.0.0.1", device.port)
    await reader.readuntil(b"\r\n")  # the banner begins with an empty line
    banner = await reader.readuntil(b"\r\n")
    assert banner.startswith(b"(c) Copyright")
    assert b"Extron Electronics, DXP 88 HDMI, V1.06" in banner
    await reader.readuntil(b"\r\n")  # date and time
    return reader, writer


async def test_ties_are_reported_to_every_connection(run_device, options, harm):
    device = await run_device(MatrixDevice(options(), Matrix(8, 8)))
    one, tell = await connect(device)
    other, _ = await connect(device)
    tell.write(b"1*3!")
    for reader in (one, other):
        assert await asyncio.wait_for(reader.readline(), 5) == b"Out3 In1 All\r\n"
    assert (await harm(device, "tie 4 2"))["video"][1] == 4
    for reader in (one, other):
        assert await asyncio.wait_for(reader.readline(), 5) == b"Out2 In4 All\r\n"
    assert "error" in await harm(device, "tie 40 2")
    assert [entry["reply"] for entry in commands(read(device.options.journal))] == ["Out3 In1 All"]


async def test_someone_ties_by_hand_now_and_then(run_device, options):
    device = await run_device(MatrixDevice(options(seed=3), Matrix(8, 8), panel_every=0.05))
    reader, _ = await connect(device)
    line = await asyncio.wait_for(reader.readline(), 5)
    assert line.startswith(b"Out")
    assert int(line[3:4]) > 4


async def test_flood_without_a_command_is_cut_off(run_device, options):
    device = await run_device(MatrixDevice(options(), Matrix(8, 8)))
    _, writer = await connect(device)
    writer.write(b"1" * 5000)
    async with asyncio.timeout(5):
        while device.sessions:
            await asyncio.sleep(0.01)
    assert read(device.options.journal)[-1]["reason"] == "flooded"
