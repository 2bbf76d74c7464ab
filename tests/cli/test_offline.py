"""The command line without a platform: help, errors, and what is kept of a login."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import time

import pytest

from placeos.cli import resources
from placeos.cli import session as sessions
from placeos.cli.cluster_view import Core, Member, Past, View
from placeos.cli.output import CliError, complain, harmless, print_table
from placeos.cli.resources import Node, Overview
from placeos.cli.session import Session


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A configuration folder of the test's own, and no variables that matter."""
    for name in list(os.environ):
        if name.startswith("PLACEOS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def placeos(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "placeos.cli", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        stdin=subprocess.DEVNULL,
    )


@pytest.mark.usefixtures("home")
def test_help_names_every_command():
    outcome = placeos("--help")
    assert outcome.returncode == 0
    for command in ("up", "login", "systems", "exec", "watch", "status", "cluster", "core", "api"):
        assert f" {command} " in outcome.stdout


@pytest.mark.usefixtures("home")
def test_help_loads_nothing_heavy():
    code = (
        "import sys, placeos.cli.app\n"
        "heavy = {'httpx', 'litestar', 'sqlalchemy', 'asyncpg', 'picows', 'placeos.local'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    outcome = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert outcome.stdout.strip() == "[]", outcome.stderr


@pytest.mark.usefixtures("home")
def test_without_a_login_it_says_how_to_log_in():
    outcome = placeos("systems")
    assert outcome.returncode == 2
    assert "not logged in" in outcome.stderr
    assert "placeos login" in outcome.stderr


@pytest.mark.usefixtures("home")
def test_with_nobody_there_it_says_so():
    with socket.socket() as silent:  # held, so that nobody else can begin to listen there
        silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
        outcome = placeos("systems", "--url", f"http://127.0.0.1:{port}", "--api-key", "x.y")
    assert outcome.returncode == 1
    assert f"cannot reach http://127.0.0.1:{port}" in outcome.stderr
    assert "placeos up" in outcome.stderr


@pytest.mark.usefixtures("home")
def test_an_address_that_is_none_is_refused():
    outcome = placeos("login", "ftp://example.com", "--api-key", "x.y")
    assert outcome.returncode == 2
    assert "ftp://example.com" in outcome.stderr


@pytest.mark.usefixtures("home")
def test_a_service_without_configuration_names_what_is_missing():
    outcome = placeos("auth")
    assert outcome.returncode == 2
    assert "PLACEOS_DATA is not set" in outcome.stderr


@pytest.mark.usefixtures("home")
def test_completion_can_be_shown():
    outcome = subprocess.run(
        [sys.executable, "-m", "placeos.cli"],
        env=os.environ
        | {
            "_PYTHON__M_PLACEOS_CLI_COMPLETE": "complete_bash",
            "_PLACEOS_COMPLETE": "complete_bash",
            "COMP_WORDS": "placeos sys",
            "COMP_CWORD": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert "systems" in outcome.stdout


@pytest.mark.usefixtures("home")
def test_a_login_is_kept_for_its_owner_only():
    session = Session(url="http://x", access_token="a", refresh_token="r", expires_at=5)
    sessions.save(session)
    assert sessions.load() == session
    assert stat.S_IMODE(sessions.file().stat().st_mode) == 0o600
    assert sessions.current(None, None) == session
    assert sessions.forget()
    assert not sessions.forget()
    with pytest.raises(CliError, match="not logged in"):
        sessions.current(None, None)


@pytest.mark.usefixtures("home")
def test_an_api_key_goes_before_the_login_but_to_the_same_platform():
    sessions.save(Session(url="http://x", access_token="a"))
    assert sessions.current(None, "k.s") == Session(url="http://x", api_key="k.s")
    assert sessions.current("http://y", "k.s").url == "http://y"


@pytest.mark.usefixtures("home")
def test_a_login_is_not_sent_to_another_platform():
    sessions.save(Session(url="http://x", access_token="a"))
    with pytest.raises(CliError, match="logged in to http://x"):
        sessions.current("http://evil", None)


@pytest.mark.usefixtures("home")
def test_a_broken_login_file_is_explained():
    sessions.save(Session(url="http://x"))
    sessions.file().write_text("{")
    outcome = placeos("systems")
    assert outcome.returncode == 2
    assert "session.json" in outcome.stderr


def test_tokens_are_renewed_before_they_end():
    assert Session(url="", access_token="a", expires_at=time.time() + 30).stale
    assert not Session(url="", access_token="a", expires_at=time.time() + 300).stale
    assert not Session(url="", api_key="k").stale


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("host", ["a b", "http://a.example", "a.example:443", "", "-a", "a..b"])
def test_a_host_that_is_no_name_is_refused_before_anything_starts(tmp_path, host):
    outcome = placeos("up", "--data", str(tmp_path / "data"), "--host", host)
    assert outcome.returncode == 2
    assert "is no name of a machine" in outcome.stderr
    assert not (tmp_path / "data").exists()


def test_no_text_of_a_driver_steers_the_terminal(capsys):
    bad = "\x1b[2J\x1b]0;title\x07\rred\x9b31m"
    shown = "\\x1b[2J\\x1b]0;title\\x07\\x0dred\\x9b31m"
    assert harmless(bad) == shown
    assert harmless("zwei\n\tZeilen, ü") == "zwei\n\tZeilen, ü"
    print_table(["REASON"], [[bad]], empty="")
    complain(CliError(bad, hint=bad))
    told = capsys.readouterr()
    assert shown in told.out
    assert told.err.count(shown) == 2


def test_status_names_cores_that_say_nothing(capsys):
    view = View(
        number=7,
        members=[Member("core-1", eligible=True)],
        base=[Past("core-1"), Past("core-3", "3", "lost")],
        waiting_for=["nobody vouches that these have ended: core-3 (3)"],
        cores=[Core("core-1"), Core("core-2", answers=False)],
    )
    node = Node("core-1", zone="west", version="1.2.3", wish="ready", modules_owned=4)
    resources._print_status(Overview("http://x", "v1", [node], view, 4, 4, 0, [], []))
    shown = capsys.readouterr().out
    assert shown.splitlines()[2].split()[1:5] == ["west", "1.2.3", "ready", "4"]
    assert "Registered, but does not answer: core-2\n" in shown
    assert "Lost: core-3\n" in shown
    assert "View: 7, not completed\n  waits: nobody vouches" in shown
