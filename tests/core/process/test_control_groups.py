"""Where control groups are looked for, and what is made of them."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from placeos.core.process.control_groups import ControlGroups, Hierarchy, hierarchies
from placeos.core.process.limits import THREADS, Limits

V1 = """\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
36 31 0:33 / /sys/fs/cgroup/devices rw,relatime - cgroup cgroup rw,devices
39 31 0:36 /docker/4711 /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
"""
V2 = "29 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"


def test_version_1():
    own = "9:pids:/docker/4711/a\n4:memory:/some/where\n1:cpu,cpuacct:/\n0::/\n"
    root = Path("/sys/fs/cgroup")
    assert hierarchies(own, V1) == [
        Hierarchy(root / "cpu,cpuacct", 1, ("cpu",)),
        Hierarchy(root / "memory/some/where", 1, ("memory",)),
        Hierarchy(root / "pids/a", 1, ("pids",)),
    ]


def test_version_2():
    (place,) = hierarchies("0::/system.slice/placeos.service\n", V2)
    assert place.folder == Path("/sys/fs/cgroup/system.slice/placeos.service")
    assert place.version == 2


def test_nothing_there():
    groups = ControlGroups(Limits(), [])
    groups.open()
    assert set(groups.reached.values()) == {"no control groups"}
    group = groups.make()
    assert group.entrances == []
    assert not group.out_of_memory()
    assert not group.weigh(0.1)
    group.remove()


def test_a_place_that_is_not_ours_is_told(tmp_path):
    groups = ControlGroups(Limits(), [Hierarchy(tmp_path / "none", 1, ("memory",))])
    groups.open()
    assert groups.reached["memory"] == "no control group: No such file or directory"


def test_version_2_without_delegation(tmp_path):
    (tmp_path / "cgroup.controllers").write_text("cpuset io\n")
    groups = ControlGroups(Limits(), [Hierarchy(tmp_path, 2, ("memory", "pids", "cpu"))])
    groups.open()
    assert groups.reached["memory"] == "no control group: no controller is delegated"


@pytest.fixture
def real():
    """The control groups of this machine."""
    groups = ControlGroups(Limits(memory=64))
    groups.open()
    if not groups.reached["memory"].startswith("control group "):
        pytest.skip(f"memory: {groups.reached['memory']}")
    return groups


def test_the_kernel_keeps_the_limit_of_memory(real):
    group = real.make()
    code = (
        "import sys\n"
        "for entrance in sys.argv[1:]: open(entrance, 'wb', buffering=0).write(b'0')\n"
        "kept = []\n"
        "while True: kept.append(b'x' * (1 << 20))\n"
    )
    try:
        assert not group.out_of_memory()
        done = subprocess.run([sys.executable, "-c", code, *group.entrances], timeout=60)
        assert done.returncode == -signal.SIGKILL
        assert group.out_of_memory()
    finally:
        group.remove()
    assert not any(Path(entrance).exists() for entrance in group.entrances)


def test_what_is_left_in_a_group_ends_with_it(real):
    group = real.make()
    code = (
        "import sys, time\n"
        "for entrance in sys.argv[1:]: open(entrance, 'w').write('0')\n"
        "print()\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-uc", code, *group.entrances], stdout=subprocess.PIPE
    ) as process:
        process.stdout.readline()
        if real.reached["pids"].startswith("control group "):
            (folder,) = {Path(one).parent for one in group.entrances if "pids" in one} or {None}
            if folder is not None:
                assert (folder / "pids.max").read_text().strip() == str(THREADS)
        group.weigh(0.1)
        group.remove()
        assert process.wait(10) == -signal.SIGKILL
    assert not any(Path(entrance).exists() for entrance in group.entrances)


def test_groups_of_cores_that_are_gone_are_removed(real):
    group = real.make()
    left = [Path(entrance).parent for entrance in group.entrances]
    foreign = [folder.with_name(f"placeos-{2**22 - 1}-1-1") for folder in left]
    for folder in foreign:
        folder.mkdir()
    other = ControlGroups(Limits())
    other.open()
    assert not any(folder.exists() for folder in foreign)
    assert all(folder.exists() for folder in left)  # their core is this process
    group.remove()
