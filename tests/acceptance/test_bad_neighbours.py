"""One bad driver of each kind beside fifty good modules that poll their devices at 10 Hz.

The witness is each device's own journal: no gap over 250 ms while the harm is done. The bad one
is named with its reason by the API and by the command line. What a driver must not reach it
cannot reach.
"""

import json
from pathlib import Path

import neighbours
import pytest
from neighbours import BAD, SPY, Bad, created, good_modules

from placeos.local.demo.building import DISPLAY
from placeos.wire.frame import Command


@pytest.fixture(scope="module")
async def crowd(site, tmp_path_factory):
    async with good_modules(site, tmp_path_factory.mktemp("fifty")) as found:
        yield found


@pytest.fixture(scope="module")
async def repository(site, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad neighbours")
    record = {"name": "Bad", "folder_name": "bad", "uri": folder.as_uri(), "repo_type": "driver"}
    identity = await created(site, "repositories", **record)
    yield folder, identity
    await site.client.delete(f"/repositories/{identity}")


@pytest.fixture
async def bad(site, repository):
    """`await bad(name, code)`: a running module of that driver."""
    folder, repository_id = repository
    made = []

    async def make(name: str, code: str) -> Bad:
        (folder / f"{name}.py").write_text(BAD + code)
        driver = await created(
            site,
            "drivers",
            name=name,
            file_name=f"{name}.py",
            commit="HEAD",
            repository_id=repository_id,
            role=99,
            module_name="Bad",
        )
        system = await created(site, "systems", name=f"Room of {name}", zones=[])
        module = await created(site, "modules", driver_id=driver, control_system_id=system)
        (await site.client.post(f"/modules/{module}/start")).raise_for_status()
        one = Bad(site, system, module, driver)
        made.append(one)
        await one.says_hello()
        return one

    yield make
    for one in made:
        await one.settle()
        await site.client.delete(f"/systems/{one.system}")
        await site.client.delete(f"/drivers/{one.driver}")


CASES = [
    ("endless", neighbours.ENDLESS_LOOP, ("event loop blocked at endless.py", "in harm")),
    ("sleeps", neighbours.SLEEP, ("event loop blocked at sleeps.py", "in harm")),
    ("leaks", neighbours.LEAK, ("its driver process used", "limit of 512 MiB")),
    ("storms", neighbours.STORM, ("ValueError: no luck today", "storms.py", "in storm")),
    ("logs", neighbours.LOG_FLOOD, ("logs too much",)),
    ("exits", neighbours.EXIT, ("its driver process ended with status 7",)),
    ("forks", neighbours.FORKS, ("PermissionError", "forks.py", "in bomb")),
]
MORE_CASES = [
    ("prints", neighbours.PRINT_FLOOD, ("writes too much to its output", "MB/s")),
    ("crashes", neighbours.CRASH, ("its driver process was ended by signal SIGSEGV",)),
    ("busy", neighbours.BUSY, ("keeps a processor busy",)),
    ("threads", neighbours.THREADS, ("thread",)),
]


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        *(pytest.param(*case, id=case[0]) for case in CASES),
        *(pytest.param(*case, id=case[0], marks=pytest.mark.long) for case in MORE_CASES),
    ],
)
async def test_bad_neighbour(crowd, bad, name, code, words):
    one = await bad(name, code)

    async def harm():
        one.begin()
        await one.named(*words)

    await crowd.unharmed(harm)
    shown = words[0].removeprefix("its driver process ")
    await one.driver_named(shown)
    await one.named_by_command_line(f"{name}.py", shown)


@pytest.mark.long
async def test_all_at_once(crowd, bad):
    ones = {name: await bad(f"all_{name}", code) for name, code, _ in (*CASES, *MORE_CASES)}

    async def harm():
        for one in ones.values():
            one.begin()
        for name, _, words in (*CASES, *MORE_CASES):
            await ones[name].named(words[0].replace(f"{name}.py", f"all_{name}.py"))

    await crowd.unharmed(harm)


@pytest.mark.long
async def test_a_crash_is_told_with_its_stack_and_how_often(bad):
    one = await bad("crashing", neighbours.CRASH)
    one.begin()
    await one.named("SIGSEGV")
    await one.says_hello()
    one.begin()
    told = await one.named("SIGSEGV", "2 times within an hour")
    assert "Fatal Python error: Segmentation fault" in told
    assert "crashing.py" in told
    assert "2 times" in (await one.process())["last_end"]


@pytest.mark.long
async def test_frames_without_end(site, crowd, bad):
    """Sent past the SDK and its allowances: core is not held up, and tells who keeps it busy."""
    one = await bad("frames", neighbours.FRAMES)

    async def harm():
        one.begin()
        await one.named("its driver process")

    await crowd.unharmed(harm)
    assert len((await site.client.get("/cluster")).json()) == 1
    errors = (await site.client.get(f"/modules/{one.module}/error")).json()
    assert len(errors) <= 30


async def test_an_administrator_ends_a_process(site, bad):
    one = await bad("ended", "")
    before = await one.process()
    (node,) = (await site.client.get("/cluster")).json()
    answer = await site.client.delete(f"/cluster/{node['id']}", params={"driver": one.driver})
    assert answer.status_code == 202, answer.text
    await one.named("was terminated by an administrator")
    await one.says_hello()
    after = await one.process()
    assert after["pid"] != before["pid"]
    assert after["launch_count"] == 2
    assert after["last_end"] == "was terminated by an administrator"


# ---- secrets


async def refused(one: Bad, function: str, *arguments: object) -> str:
    answer = await one.site.client.post(
        f"/systems/{one.system}/Bad_1/{function}", json=list(arguments)
    )
    assert answer.status_code >= 400, f"{function}{arguments}: {answer.text}"
    return answer.json()["message"]


async def test_secrets_are_out_of_reach(site, bad):
    one = await bad("spy", SPY)
    level = (await one.process())["isolation"]
    if level["landlock"].startswith("no:") or level["system calls"].startswith("no:"):
        pytest.skip(f"this system offers no walls: {level}")
    core = next(pid for name, pid in site.pids.items() if name.startswith("core"))
    told = await one.ask("environment")
    assert not [name for name in told if name.startswith(("PLACEOS", "PG"))]
    for path in (
        f"/proc/{core}/environ",
        f"/proc/{core}/mem",
        f"/proc/{core}/cmdline",
        "/etc/shadow",
        str(site.data),
        str(site.data / "secrets"),
        str(site.data / "secrets" / "server_secret"),
        str(Path(told["HOME"]).parent),
        str(Path(told["HOME"]).parents[1] / "drivers"),
        str(Path(told["HOME"]).parents[1] / "lock"),
        "/",
        "/tmp",
        str(Path.home()),
    ):
        assert "ermission denied" in await refused(one, "file", path), path
    (lock,) = (int(n) for n, path in (await one.ask("held")).items() if path.endswith("/lock"))
    assert "not implemented" in await refused(one, "unlock", lock)  # core's lock of its data
    assert "Bad file descriptor" in await refused(one, "write", lock)
    assert await one.ask("trace", core) == -1
    assert "not permitted" in await refused(one, "signal", core)
    assert "not supported" in await refused(one, "connect", str(site.data / "redis.sock"))


async def test_other_modules_are_out_of_reach_by_frames(site, bad):
    """No frame gives a module's settings, changes them, or speaks for a module."""
    one = await bad("liar", SPY)
    room, victim = "Room 1.02", await site.module("Room 1.02", DISPLAY)
    setting = json.dumps({"name": "password", "value": "stolen"})
    assert "its own settings only" in await refused(one, "frame", Command.SETTING, victim, setting)
    for command in (Command.START, Command.UPDATE, Command.STOP, Command.LOAD):
        said = await refused(one, "frame", command, victim, "{}")
        assert "projector-1.02" not in said
    lie = json.dumps([["connected", False], ["lie", True]])
    await one.ask("silent_frame", Command.STATE, victim, lie)
    await one.ask("silent_frame", Command.FAULT, victim, json.dumps({"message": "a lie"}))
    answer = await one.ask("frame", Command.READ, one.module, json.dumps({"key": "connected"}))
    assert answer in ("true", "null")  # what was sent before has been looked at by now
    assert await site.value(room, "Display_1", "lie") is None
    assert await site.value(room, "Display_1", "connected") is True
    said = await site.client.get(f"/modules/{victim}/error")
    assert "a lie" not in said.text
