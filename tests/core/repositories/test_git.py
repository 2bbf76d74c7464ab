"""The git program as core runs it: who gets in, what is refused, what others can see of it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from placeos.core.files.git import AT_ONCE, Git, GitError, Remote, remote
from placeos.core.files.git_source import GitSource
from placeos.core.files.mirror import Mirror, default_branch, listed, remote_log
from placeos.core.files.repositories import folder_of
from placeos.core.files.sources import Order, RepositoryError, inside
from placeos.core.jobs import Jobs
from placeos.model.repository import Repository

PROTOCOLS = ("https", "ssh", "file")


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("ext::sh -c touch% /tmp/pwned", "by ext"),
        ("-oProxyCommand=touch /tmp/pwned", "not an address"),
        ("--upload-pack=touch /tmp/pwned", "not an address"),
        ("https://-x/r.git", "names no host"),
        ("ssh://-oProxyCommand=x/r.git", "names no host"),
        ("ssh://-lroot@host/r.git", "user name"),
        ("http://host/r.git", "by http are not served"),
        ("git://host/r.git", "by git are not served"),
        ("fd::17", "by fd"),
        ("https://[::1/r.git", "is not an address"),
        ("/srv/drivers.git", "by no protocol"),
        ("https://ann:secret@host/r.git", "holds a password"),
        ("https://host/r.git\n", "not an address"),
        ("ssh://host/r.git", "needs a password or a private key"),
    ],
)
def test_addresses_that_are_refused(uri, said):
    with pytest.raises(RepositoryError) as caught:
        remote(uri, "", "" if "needs" in said else "x", PROTOCOLS)
    assert said in str(caught.value)
    assert "secret" not in str(caught.value)


_TEXT = st.text(st.characters(codec="utf-8"), max_size=40)
_URI = st.one_of(
    _TEXT,
    st.builds("{}://{}@{}{}".format, st.sampled_from([*PROTOCOLS, "ext"]), _TEXT, _TEXT, _TEXT),
)


@given(_URI, _TEXT)
def test_any_address_is_taken_or_refused(uri, username):
    try:
        folder_of(uri)
        found = remote(uri, username, "correct horse", PROTOCOLS)
    except RepositoryError:
        return
    assert found.uri.startswith(("https://", "ssh://", "file://"))
    assert "correct horse" not in found.uri
    authority = found.uri.partition("://")[2].partition("/")[0].rpartition("@")
    assert not authority[0].startswith("-") or not found.uri.startswith("ssh")
    assert not authority[2].startswith("-")


@given(_TEXT, _TEXT)
def test_any_path_stays_inside(root, name):
    try:
        found = inside(root, name)
    except RepositoryError:
        return
    assert not found.startswith("/")
    assert ".." not in found.split("/")
    assert "\0" not in found


def test_addresses_that_are_taken():
    assert remote("https://host/a%20b.git", "u", "p", PROTOCOLS).uri == "https://host/a%20b.git"
    assert remote("ssh://host:22/r.git", "git", "p", PROTOCOLS).uri == "ssh://git@host:22/r.git"
    # A user's name may be a token: it must not stand in a command line.
    taken = remote("https://t%2Bken@host:1/r.git", "", "", PROTOCOLS)
    assert (taken.uri, taken.username) == ("https://host:1/r.git", "t+ken")
    assert remote("file:///a%20b.git", "", "", PROTOCOLS).uri == "file:///a b.git"
    assert "secret" not in repr(remote("https://host/r", "u", "secret", PROTOCOLS))


async def test_a_file_is_read_at_each_commit(upstream, git, tmp_path):
    first = upstream.git("rev-parse", "HEAD")
    second = upstream.commit({"plain.py": "two"})
    mirror = Mirror(git.folder / "mirrors" / "r", git)
    said: list[str] = []
    await mirror.fetch(Remote(upstream.uri), said.append)
    assert any("Receiving objects" in line or "Counting" in line for line in said)
    assert await mirror.read(second, "plain.py") == b"two"
    assert b"return 1" in await mirror.read(first, "plain.py")
    assert await mirror.commit(first[:7]) == first
    assert await mirror.branch("master") == second
    assert await mirror.folders(second) == ["docs"]
    assert [one.subject for one in await mirror.log(second, "plain.py", 5)] == ["change", "first"]


async def test_https_lets_in_who_has_the_password(web_server, git):
    user, password = web_server.credential
    address = remote(web_server.uri, user, password, PROTOCOLS)
    assert await listed(git, address, "heads") == ["master"]
    assert await default_branch(git, address) == "master"
    mirror = Mirror(git.folder / "mirrors" / "r", git)
    await mirror.fetch(address, lambda _: None)
    assert b"Plain" in await mirror.read(await mirror.branch("master"), "plain.py")
    assert [one.subject for one in await remote_log(git, address, "master", 5)] == ["first"]
    assert not list((git.folder / "calls").iterdir())


@pytest.mark.parametrize(("user", "password"), [("ann", "wrong horse"), ("", "")])
async def test_https_keeps_others_out(web_server, git, user, password):
    with pytest.raises(GitError) as caught:
        await listed(git, remote(web_server.uri, user, password, PROTOCOLS), "heads")
    assert "credentials" in str(caught.value)
    assert "wrong horse" not in str(caught.value)


async def test_https_with_a_token_and_no_name(web_server, git):
    web_server.credential = ("git", "a token")
    assert await listed(git, remote(web_server.uri, "", "a token", PROTOCOLS), "heads")


async def test_a_token_as_the_name_is_not_told(web_server, git):
    for uri in (web_server.uri, web_server.uri.replace("://", "://t%2Fken%20x@")):
        with pytest.raises(GitError, match="asks for a password") as caught:
            await listed(git, remote(uri, "t/ken x", "", PROTOCOLS), "heads")
        assert "ken" not in str(caught.value)


async def test_a_certificate_that_nobody_vouches_for(web_server, git, monkeypatch):
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(GitError, match="certificate of the server is not trusted"):
        await listed(git, remote(web_server.uri, "u", "p", PROTOCOLS), "heads")


async def test_nobody_answers(git):
    with pytest.raises(GitError, match=r"refuses the connection|cannot be reached"):
        await listed(git, remote("https://localhost:9/r.git", "u", "p", PROTOCOLS), "heads")
    with pytest.raises(GitError, match="there is no"):
        await listed(git, remote("file:///nowhere/r.git", "", "", PROTOCOLS), "heads")


def processes_with(text: bytes) -> list[str]:
    """Command lines, of any process, that hold a text."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes()
        except OSError:
            continue
        if text in line:
            found.append(line.replace(b"\0", b" ").decode())
    return found


async def test_no_command_line_holds_a_secret(web_server, git, until):
    user, password = web_server.credential
    web_server.delay = 60
    address = remote(web_server.uri, user, password, PROTOCOLS)
    fetching = asyncio.create_task(Mirror(git.folder / "mirrors" / "r", git).fetch(address, print))
    await until(lambda: len(web_server.asked) >= 2)  # without, then with credentials
    assert processes_with(web_server.uri.encode())
    assert not processes_with(password.encode())
    secrets = list((git.folder / "calls").glob("*/*"))
    assert sorted(path.name for path in secrets) == ["password", "username"]
    assert {path.stat().st_mode & 0o077 for path in secrets} == {0}
    fetching.cancel()
    await asyncio.gather(fetching, return_exceptions=True)
    await until(lambda: not processes_with(web_server.uri.encode()))  # none is left behind
    assert not list((git.folder / "calls").iterdir())


async def test_a_server_that_never_answers_ends_in_time(web_server, git, monkeypatch, until):
    web_server.delay = 60
    address = remote(web_server.uri, *web_server.credential, PROTOCOLS)
    with pytest.raises(GitError, match="not done within"):
        await git.run("ls-remote", "--", address.uri, remote=address, timeout=1.0)
    await until(lambda: not processes_with(web_server.uri.encode()))  # the kernel takes a moment


@pytest.fixture
def unreachable():
    """The port of a host that does not answer at all: no more connections fit into its queue."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


@pytest.mark.parametrize("scheme", ["https", "ssh"])
async def test_a_host_that_cannot_be_reached_ends_a_fetch(
    git, unreachable, monkeypatch, scheme, until
):
    monkeypatch.setattr("placeos.core.files.git.SILENCE", (1.0, 1.0))
    address = remote(f"{scheme}://127.0.0.1:{unreachable}/r.git", "ann", "p", PROTOCOLS)
    began = time.monotonic()
    with pytest.raises(GitError, match="the server does not answer"):
        await Mirror(git.folder / "mirrors" / "r", git).fetch(address, print)
    assert time.monotonic() - began < 14  # ssh would give up by itself after 15, git after 130
    await until(lambda: not processes_with(address.uri.encode()))  # the kernel takes a moment


async def test_a_fetch_that_was_cancelled_is_not_begun_again_at_once(git, unreachable, until):
    address = remote(f"https://127.0.0.1:{unreachable}/r.git", "ann", "p", PROTOCOLS)
    jobs = Jobs()
    source = GitSource(address, Mirror(git.folder / "mirrors" / "r", git), git, jobs, poll=1.0)
    record = Repository(name="R", folder_name="r", uri=address.uri)
    order = Order(record, leads=True, pull=False, pins=frozenset())
    preparing = asyncio.create_task(source.prepare(order))
    await until(lambda: processes_with(address.uri.encode()))
    assert jobs.cancel(jobs.listed()[0].id)
    with pytest.raises(RepositoryError, match="cancelled"):
        await preparing
    await until(lambda: not processes_with(address.uri.encode()))  # the kernel takes a moment
    assert source.due() - asyncio.get_running_loop().time() > 200
    with pytest.raises(RepositoryError, match="cancelled"):
        await source.prepare(order)
    assert len(jobs.listed()) == 1


async def test_servers_that_hang_keep_nobody_from_a_mirror(upstream, git, unreachable, until):
    mirror = Mirror(git.folder / "mirrors" / "r", git)
    await mirror.fetch(Remote(upstream.uri), print)
    address = remote(f"https://127.0.0.1:{unreachable}/r.git", "ann", "p", PROTOCOLS)
    hanging = [asyncio.create_task(listed(git, address, "heads")) for _ in range(AT_ONCE + 2)]
    await asyncio.sleep(0)
    async with asyncio.timeout(20):
        assert b"Plain" in await mirror.read(await mirror.branch("master"), "plain.py")
    for task in hanging:
        task.cancel()
    await asyncio.gather(*hanging, return_exceptions=True)
    await until(lambda: not processes_with(address.uri.encode()))  # the kernel takes a moment


async def test_the_answer_is_bounded(upstream, git):
    with pytest.raises(GitError, match="larger than 10 bytes"):
        await git.run("ls-remote", "--", upstream.uri, remote=Remote(upstream.uri), most=10)


async def test_a_repository_that_is_too_large(upstream, git, monkeypatch):
    monkeypatch.setattr("placeos.core.files.mirror.MAX_MIRROR", 1)
    monkeypatch.setattr("placeos.core.files.mirror.LOOK", 0.0)
    with pytest.raises(GitError, match="larger than 1 bytes"):
        await Mirror(git.folder / "mirrors" / "r", git).fetch(Remote(upstream.uri), print)


async def test_the_configuration_of_the_machine_does_not_count(upstream, tmp_path, monkeypatch):
    home = tmp_path / "home"
    home.mkdir()
    mark = tmp_path / "was run"
    (home / ".gitconfig").write_text(
        f'[url "file:///elsewhere"]\n\tinsteadOf = {upstream.uri}\n'
        f"[core]\n\tsshCommand = touch '{mark}'\n"
    )
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(home / ".gitconfig"))
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    git = Git(tmp_path / "git")
    await git.prepare()
    assert await listed(git, Remote(upstream.uri), "heads") == ["master"]
    assert not mark.exists()


async def test_a_program_that_is_missing(git, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(GitError, match="git program does not start"):
        await git.run("version")
