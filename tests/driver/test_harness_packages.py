"""Drivers that ask for packages (PEP 723), outside of a platform."""

from __future__ import annotations

import os
import sys
import textwrap
import zipfile
from pathlib import Path

import pytest

from placeos.driver.environment import EnvironmentProblem
from placeos.driver.testing import FakeClock, drive
from placeos.driver.testing.packages import python_for

DRIVER = '''
    """Asks for a package."""
    # /// script
    # requires-python = ">=3.11"
    # dependencies = ["NEEDED"]
    # ///
    import sys

    from placeos.driver import Logic, Settings


    class Asking(Logic[Settings]):
        async def started(self) -> None:
            self["python"] = sys.executable

        async def version(self) -> str:
            import acmelamp
            return acmelamp.VERSION
'''


def wheel(folder: Path, version: str) -> None:
    """A package `acmelamp`, made here: no test needs a network."""
    info = f"acmelamp-{version}.dist-info"
    contents = {
        "acmelamp.py": f"VERSION = {version!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: acmelamp\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},,\n" for name in [*contents, f"{info}/RECORD"])
    with zipfile.ZipFile(folder / f"acmelamp-{version}-py3-none-any.whl", "w") as made:
        for name, text in {**contents, f"{info}/RECORD": record}.items():
            made.writestr(name, text)


@pytest.fixture
def source(tmp_path, monkeypatch) -> Path:
    """A folder of packages that is the only source, and a cache of our own."""
    for name in [name for name in os.environ if name.startswith("UV_")]:
        monkeypatch.delenv(name)
    folder = tmp_path / "packages"
    folder.mkdir()
    wheel(folder, "1.0")
    monkeypatch.setenv("UV_NO_CONFIG", "1")
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_NO_INDEX", "1")
    monkeypatch.setenv("UV_FIND_LINKS", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return folder


@pytest.fixture
def asking(tmp_path):
    def write(needed: str) -> Path:
        file = tmp_path / "asking.py"
        file.write_text(textwrap.dedent(DRIVER).replace("NEEDED", needed))
        return file

    return write


@pytest.mark.parametrize(
    "needed",
    [
        "msgspec",
        "MsgSpec >= 0.1",
        "msgspec<1000",
        "nonsense; python_version < '3'",
    ],
)
async def test_what_is_here_is_used(needed, asking, source, tmp_path):
    assert await python_for(asking(needed)) == sys.executable
    assert not (tmp_path / "cache").exists()


async def test_what_is_missing_is_installed_once(asking, source, capsys):
    file = asking("acmelamp>=1")
    async with drive(file) as module:
        assert await module.exec("version") == "1.0"
        used = module.state["python"]
    assert used != sys.executable
    assert capsys.readouterr().err  # it told what it did
    for wheel_file in source.iterdir():
        wheel_file.unlink()
    async with drive(file, clock=FakeClock()) as module:  # from the cache; time is told there too
        assert await module.exec("version") == "1.0"
        assert module.state["python"] == used
        await module.clock.advance(3600)
    assert not capsys.readouterr().err


@pytest.mark.parametrize("needed", ["msgspec==0.0.1", "acmelamp==7", "???"])
async def test_what_cannot_be_had_is_named_with_its_line(needed, asking, source):
    with pytest.raises(EnvironmentProblem, match=r"asking\.py:\d+: "):
        await python_for(asking(needed))
    with pytest.raises(AssertionError, match=r"asking\.py:\d+: "):
        async with drive(asking(needed)):
            pass


async def test_uv_is_missing(asking, source, monkeypatch):
    monkeypatch.setitem(sys.modules, "placeos.driver.environment_build", None)
    with pytest.raises(EnvironmentProblem, match=r"pip install 'placeos\[author\]'"):
        await python_for(asking("acmelamp"))
