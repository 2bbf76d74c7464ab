"""`placeos driver new`, `test` and `check`, as an author calls them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from placeos.cli.driver.stubs import NAMES
from placeos.cli.driver.templates import KINDS


def placeos(
    *arguments: str, cwd: Path, text: str | None = None
) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if "PYTEST" not in key}
    return subprocess.run(
        [sys.executable, "-P", "-m", "placeos.cli", "driver", *arguments],
        cwd=cwd,
        env=environment | {"COLUMNS": "200", "XDG_CACHE_HOME": str(cwd.parent / "cache")},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        input=text or "",
    )


def new(folder: Path, name: str, *options: str) -> Path:
    done = placeos("new", name, "--no-input", *options, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / done.stdout.removeprefix("Wrote ").partition(" ")[0]


# -- new ------------------------------------------------------------------------------------


def test_every_transport_works_as_it_is(tmp_path):
    files = []
    for kind in KINDS:
        for interfaces in ([], ["--interface", "Powerable"]):
            name = f"Acme {kind} {len(interfaces)}"
            files.append(new(tmp_path, name, "--transport", kind, *interfaces).name)
    checked = placeos("check", *files, cwd=tmp_path)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    lines = [line for line in checked.stdout.splitlines() if line.startswith("acme_")]
    for file in files:  # what it is, and nothing to complain of
        first, *others = [line for line in lines if line.startswith(f"{file}:")]
        assert "error" not in first
        assert others == [f"{file}: no errors"]
    # by pytest alone, in a folder whose only configuration is this
    (tmp_path / "pytest.ini").write_text("[pytest]\nasyncio_mode = auto\n")
    tested = subprocess.run(
        [sys.executable, "-m", "pytest", "-q"],
        cwd=tmp_path,
        env={key: value for key, value in os.environ.items() if "PYTEST" not in key},
        capture_output=True,
        text=True,
        check=False,
    )
    assert tested.returncode == 0, tested.stdout + tested.stderr
    assert f"{3 * len(KINDS)} passed" in tested.stdout


def test_every_interface_works_as_it_is(tmp_path):
    files = [new(tmp_path, f"With {name}", "--interface", name) for name in NAMES]
    checked = placeos("check", "--json", *(file.name for file in files), cwd=tmp_path)
    reports = json.loads(checked.stdout)
    wrong = {
        report["file"]: report["findings"]
        for report in reports
        if any(finding["level"] == "error" for finding in report["findings"])
    }
    assert wrong == {}
    assert checked.returncode == 0
    for name, report in zip(NAMES, reports, strict=True):
        assert NAMES[name].interface_name in report["driver"]["implements"]
    tested = placeos("test", cwd=tmp_path)
    assert tested.returncode == 0, tested.stdout
    assert f"{2 * len(NAMES)} passed" in tested.stdout


def test_what_is_written_is_formatted_and_typed(tmp_path):
    names = ("Camera", "Mailer", "Lockers")
    file = new(tmp_path, "Much", *(part for name in names for part in ("--interface", name)))
    files = [str(file), str(file.with_name("test_much.py"))]
    for command in (["format", "--diff"], ["check", "--select", "E,F,I,UP"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--line-length", "100", "--isolated", *files],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file=", *files],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout


def test_overwrites_nothing(tmp_path):
    (tmp_path / "test_lamp.py").write_text("mine")
    done = placeos("new", "Lamp", "--no-input", cwd=tmp_path)
    assert done.returncode == 1
    assert "test_lamp.py exists already" in done.stderr
    assert (tmp_path / "test_lamp.py").read_text() == "mine"
    assert not (tmp_path / "lamp.py").exists()


def test_asks_for_what_is_missing(tmp_path):
    done = placeos("new", cwd=tmp_path, text="Desk Lamp\nhttp\npowerable, Muteable\n")
    assert done.returncode == 0, done.stderr
    assert "How is the device reached" in done.stdout
    text = (tmp_path / "desk_lamp.py").read_text()
    assert "class DeskLamp(Driver[DeskLampSettings], Powerable, Muteable):" in text
    assert "transport = HTTP()" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["Lamp", "--transport", "smoke"], "there is no transport 'smoke'"),
        (["Lamp", "--interface", "Smoking"], "there is no interface 'Smoking'"),
        (["2 lamps"], "cannot name a driver"),
        (["class"], "cannot name a driver"),
        ([], "needs a name"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments, words, tmp_path):
    done = placeos("new", *arguments, "--no-input", cwd=tmp_path)
    assert done.returncode == 2
    assert words in done.stderr
    assert list(tmp_path.glob("*.py")) == []


def test_a_name_that_the_sdk_has(tmp_path):
    file = new(tmp_path, "Camera", "--interface", "Camera", "--module-name", "Camera")
    assert "class CameraDriver(Driver[CameraDriverSettings], Camera):" in file.read_text()
    assert placeos("check", "--no-types", file.name, cwd=tmp_path).returncode == 0


# -- test -----------------------------------------------------------------------------------


def test_names_with_quotes_and_backslashes(tmp_path):
    file = new(tmp_path, 'Acme \\s "X"', "--module-name", 'Dis"play\\')
    done = placeos("check", "--json", "--no-types", file.name, cwd=tmp_path)
    (report,) = json.loads(done.stdout)
    assert not report["findings"]
    assert report["driver"]["defaults"]["generic_name"] == 'Dis"play\\'
    assert placeos("test", file.name, "-W", "error", cwd=tmp_path).returncode == 0


@pytest.mark.parametrize("name", ["Json", "Queue", "Pytest", "Placeos", "Asyncio"])
def test_a_driver_named_as_a_module_of_python(name, tmp_path):
    """Its folder is no place for imports, as in core; what lies there is in nobody's way."""
    file = new(tmp_path, name)
    checked = placeos("check", file.name, cwd=tmp_path)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    tested = placeos("test", file.name, cwd=tmp_path)
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_files_beside_the_driver_cannot_be_imported(tmp_path):
    """Core refuses it, so the author is told before."""
    file = new(tmp_path, "Lamp")
    (tmp_path / "helper.py").write_text("x = 1\n")
    file.write_text(file.read_text().replace("\nfrom ", "\nimport helper\nfrom ", 1))
    checked = placeos("check", "--no-types", file.name, cwd=tmp_path)
    assert checked.returncode == 1
    assert "lamp.py:3: error: ModuleNotFoundError: No module named 'helper'" in checked.stdout


def test_failure_is_told_by_the_exit_code(tmp_path):
    (tmp_path / "test_it.py").write_text("async def test_it() -> None:\n    assert 1 == 2\n")
    done = placeos("test", cwd=tmp_path)
    assert done.returncode == 1
    assert "1 failed" in done.stdout


@pytest.mark.parametrize(
    "text", ["", "import pytest\n\n@pytest.mark.skip\ndef test_it() -> None: ...\n"]
)
def test_nothing_that_ran_is_no_success(text, tmp_path):
    (tmp_path / "test_it.py").write_text(text)
    done = placeos("test", "test_it.py", cwd=tmp_path)
    assert done.returncode == 1
    assert "no test ran" in done.stderr


def test_a_driver_without_a_test(tmp_path):
    (tmp_path / "lamp.py").write_text("")
    done = placeos("test", "lamp.py", cwd=tmp_path)
    assert done.returncode == 1
    assert "lamp.py has no test" in done.stderr


def test_options_go_to_pytest(tmp_path):
    (tmp_path / "test_it.py").write_text("def test_a(): pass\ndef test_b(): pass\n")
    done = placeos("test", "test_it.py", "-k", "test_a", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "1 passed" in done.stdout


# -- check ----------------------------------------------------------------------------------

BAD = '''\
"""Bad."""

import time

from placeos.driver import TCP, Driver, Settings
from placeos.driver.interfaces import Powerable


class Bad(Driver[Settings], Powerable):
    transport = TCP(port=1, ends_with=b"\\n")

    async def power(self, state: bool) -> bool:
        time.sleep(1)
        return "yes"

    async def shine(self) -> None:
        self["shines"] = True
'''


def findings(folder: Path, text: str, *options: str) -> tuple[int, list[tuple[object, ...]]]:
    (folder / "bad.py").write_text(text)
    done = placeos("check", "--json", *options, "bad.py", cwd=folder)
    (report,) = json.loads(done.stdout)
    found = [(one["level"], one["line"], one["about"]) for one in report["findings"]]
    return done.returncode, found


def test_everything_wrong_is_named_with_its_line(tmp_path):
    code, found = findings(tmp_path, BAD)
    assert code == 1
    assert found == [
        ("error", 13, "blocking"),
        ("error", 14, "types"),
        ("hint", 16, "documentation"),
    ]


def test_a_file_that_cannot_be_loaded(tmp_path):
    assert findings(tmp_path, "x = (", "--no-types") == (1, [("error", 1, "load")])
    assert findings(tmp_path, "\n1 / 0", "--no-types") == (1, [("error", 2, "load")])
    assert findings(tmp_path, "import os\nos._exit(7)", "--no-types") == (
        1,
        [("error", 0, "load")],
    )


def test_claims_that_do_not_hold(tmp_path):
    code, found = findings(tmp_path, BAD.replace("state: bool", "state: str"), "--no-types")
    assert code == 1
    assert {about for level, _, about in found if level == "error"} >= {"blocking"}
    assert any(about in ("load", "interfaces") for level, _, about in found if level == "error")


def test_settings_that_no_form_can_have(tmp_path):
    text = BAD.replace("class Bad(", "class Mine(Settings):\n    lamp: TCP\n\n\nclass Bad(")
    code, found = findings(tmp_path, text.replace("Driver[Settings]", "Driver[Mine]"), "--no-types")
    assert (code, found[0]) == (1, ("error", 9, "load"))


def test_each_claim_is_told_by_itself(tmp_path):
    text = BAD.replace("state: bool", "state: str").replace(
        "import Powerable", "import Powerable, Zoomable"
    )
    code, found = findings(
        tmp_path, text.replace(", Powerable)", ", Powerable, Zoomable)"), "--no-types"
    )
    assert code == 1
    assert [(line, about) for _, line, about in found if about != "blocking"] == [
        (9, "load"),
        (12, "load"),
    ]


def test_the_file_is_not_loaded_by_the_command_itself(tmp_path):
    text = f"{BAD}\nimport os, pathlib\npathlib.Path('pid').write_text(str(os.getppid()))\n"
    (tmp_path / "bad.py").write_text(text + "print('noise')\n")
    done = placeos("check", "--json", "--no-types", "bad.py", cwd=tmp_path)
    assert (tmp_path / "pid").exists()
    assert json.loads(done.stdout)  # what the file printed is not among it


def test_a_missing_file(tmp_path):
    done = placeos("check", "nothing.py", cwd=tmp_path)
    assert done.returncode == 1
    assert "there is no file nothing.py" in done.stderr


# -- what is missing, and what cannot be done ------------------------------------------------


def without(module: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The command in an interpreter that does not have this library."""
    hide = f"import sys; sys.modules[{module!r}] = None"
    run = "from placeos.cli import main; sys.argv[0] = 'placeos'; main()"
    return subprocess.run(
        [sys.executable, "-c", f"{hide}; {run}", "driver", *arguments],
        cwd=cwd,
        env=os.environ | {"COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def test_without_pytest(tmp_path):
    new(tmp_path, "Lamp")
    done = without("pytest", "test", "lamp.py", cwd=tmp_path)
    assert done.returncode == 1
    assert "pytest is not installed" in done.stderr
    assert "placeos[author]" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_mypy(tmp_path):
    new(tmp_path, "Lamp")
    done = without("mypy", "check", "lamp.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "mypy is not installed" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["test", "nothing.py"], 2, "there is no nothing.py"),
        (["run", "nothing.py"], 2, "there is no file nothing.py"),
        (["run", "lamp.py", "--port", "99999"], 2, "--port"),
        (["run", "lamp.py", "--settings", "nothing.yaml"], 1, "cannot read nothing.yaml"),
        (["run", "lamp.py"], 1, "the device's address is missing: give --host"),
        (["run", "lamp.py", "--host", "h", "--role", "ssh"], 1, "no transport for the role ssh"),
        (["run", "lamp.py", "--role", "smoke"], 2, "there is no role 'smoke'"),
        (["run"], 2, "Missing argument"),
        (["run", "lamp.py", "--host", "127.0.0.1", "--set", "poll_every=often"], 1, "poll_every"),
        (["run", "lamp.py", "--host", "127.0.0.1", "--set", "=5"], 2, "expected name=value"),
        (["add", "nothing.py", "Room"], 2, "there is no file"),
        (["new", "Lamp 2", "--no-input", "--folder", "lamp.py"], 1, "cannot write to lamp.py"),
    ],
)
def test_clear_words_and_no_traceback(arguments, code, words, tmp_path):
    new(tmp_path, "Lamp")
    (tmp_path / "home").mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "placeos.cli", "driver", *arguments],
        cwd=tmp_path,
        env=os.environ
        | {"COLUMNS": "200", "HOME": str(tmp_path / "home"), "PLACEOS_API_KEY": "a.b"}
        | {"PLACEOS_URL": "http://127.0.0.1:1"},
        capture_output=True,
        text=True,
        check=False,
        input="",
        timeout=300,
    )
    said = done.stdout + done.stderr
    assert words in said
    assert "Traceback" not in said
    assert done.returncode == code
