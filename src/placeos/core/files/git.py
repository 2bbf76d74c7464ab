"""The `git` program, run so that no shell sees what a person typed and no command line a secret.

Every call has an environment of its own: nothing of the machine's configuration counts, no
question reaches a terminal, and only the protocols that are allowed are spoken. Credentials lie
in a folder of the call, readable by this user alone, from which two small helpers read them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, quote, unquote, urlsplit, urlunsplit

import psutil

from placeos.core.files.sources import RepositoryError

AT_ONCE: Final = 8  # processes side by side, for questions to mirrors and for servers each
LOCAL_TIMEOUT: Final = 20.0  # seconds for a question to a mirror
REMOTE_TIMEOUT: Final = 30.0  # seconds for a question to a server
FETCH_TIMEOUT: Final = 600.0  # seconds for all of a repository
SILENCE: Final = (30.0, 120.0)  # seconds without a word of git: before the first, and later
MAX_OUTPUT: Final = 16 * 1024 * 1024  # bytes of one answer
MAX_MIRROR: Final = 2 * 1024**3  # bytes of one repository
PROGRESS: Final = 1.0  # seconds between two lines on one thing
KEPT_LINES: Final = 50  # of what git says, for explaining a failure
KEPT_ENVIRONMENT: Final = (
    *("PATH", "https_proxy", "HTTPS_PROXY", "http_proxy", "no_proxy", "NO_PROXY"),
    *("all_proxy", "ALL_PROXY", "GIT_SSL_CAINFO", "GIT_SSL_CAPATH"),
)
"""What git may see of core's environment."""

CONFIGURATION: Final = """\
[core]
	hooksPath = /dev/null
	quotePath = false
[credential]
	helper =
[protocol]
	version = 2
[http]
	followRedirects = false
	lowSpeedLimit = 100
	lowSpeedTime = 30
[safe]
	directory = *
[gc]
	auto = 0
[maintenance]
	auto = false
[fetch]
	recurseSubmodules = false
[pack]
	threads = 1
"""
CALL: Final = "PLACEOS_GIT_CALL"
ASKPASS: Final = """\
#!/bin/sh
# Answers what git or ssh asks for with a file of the call.
case "$1" in
  Username*) exec cat "$PLACEOS_GIT_CALL/username" ;;
  *assword*) exec cat "$PLACEOS_GIT_CALL/password" ;;
esac
exit 1
"""
SSH: Final = """\
#!/bin/sh
# Run by git in place of ssh: the user's configuration, agent and keys do not count.
cd "$PLACEOS_GIT_CALL" || exit 1
if [ -f key ]; then
  set -- -i key -o BatchMode=yes -o PasswordAuthentication=no "$@"
else
  set -- -o PubkeyAuthentication=no -o NumberOfPasswordPrompts=1 "$@"
fi
exec ssh -F none -o UserKnownHostsFile=../../known_hosts -o GlobalKnownHostsFile=/dev/null \\
  -o StrictHostKeyChecking=accept-new -o UpdateHostKeys=no -o HashKnownHosts=no \\
  -o IdentitiesOnly=yes -o IdentityAgent=none -o ForwardAgent=no -o ClearAllForwardings=yes \\
  -o PermitLocalCommand=no -o ControlPath=none -o ConnectTimeout=15 \\
  -o ServerAliveInterval=10 -o ServerAliveCountMax=3 "$@"
"""
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_USER: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._@+-]*")


class GitError(RepositoryError):
    """git failed. `known`: the message explains it, and it is not the mirror's fault."""

    def __init__(self, message: str, *, known: bool = True) -> None:
        super().__init__(message)
        self.known = known


@dataclass(frozen=True, slots=True)
class Remote:
    """Where a repository is, and how to be let in. `uri` holds no secret."""

    uri: str
    username: str = ""
    password: str = field(default="", repr=False)
    """A password, or for ssh a private key (PEM)."""

    @property
    def has_key(self) -> bool:
        """Whether the password is a private key."""
        return self.password.lstrip().startswith("-----BEGIN")


def address_parts(uri: str) -> SplitResult:
    """The parts of a URI. Raises RepositoryError when it is none."""
    if _CONTROL.search(unquote(uri)):
        raise RepositoryError("the URI is not an address: it holds control characters")
    try:
        return urlsplit(uri)
    except ValueError as error:
        raise RepositoryError(f"the URI is not an address: {error}") from error


def remote(uri: str, username: str, password: str, protocols: Sequence[str]) -> Remote:
    """Check an address. Raises RepositoryError: protocol not allowed, or no address at all."""
    if uri.startswith("-"):
        raise RepositoryError("the URI is not an address of a git repository")
    parts = address_parts(uri)
    if parts.scheme not in protocols:
        raise RepositoryError(
            f"repositories by {parts.scheme or 'no protocol'} are not served; "
            f"allowed are {', '.join(protocols)}"
        )
    if parts.password is not None:
        raise RepositoryError("the URI holds a password; it belongs into the password's field")
    if parts.scheme == "file":
        return Remote(f"file://{unquote(parts.path)}")
    host, user = parts.hostname or "", unquote(parts.username or "") or username
    if not host or host.startswith("-"):
        raise RepositoryError("the URI names no host")
    place = parts.netloc.rpartition("@")[2]
    if parts.scheme != "ssh":
        # A user's name may be a token, and the address stands in command lines.
        # With a token alone most servers take any name, but none takes no name.
        name = user or ("git" if password else "")
        return Remote(urlunsplit(parts._replace(netloc=place)), name, password)
    if user and not _USER.fullmatch(user):
        raise RepositoryError("the user name is none for ssh")
    if not password:
        raise RepositoryError(
            "ssh needs a password or a private key; both go into the password's field"
        )
    netloc = f"{quote(user, safe='')}@{place}" if user else place
    return Remote(urlunsplit(parts._replace(netloc=netloc)), user, password)


class Git:
    """Runs the program. `prepare()` before anything else."""

    def __init__(self, folder: Path, protocols: Sequence[str] = ("https", "ssh", "file")) -> None:
        self.folder = folder
        self.protocols = tuple(protocols)
        # Servers that hang must not keep anybody from what is at hand.
        self._local_slots = asyncio.Semaphore(AT_ONCE)
        self._remote_slots = asyncio.Semaphore(AT_ONCE)

    async def prepare(self) -> None:
        """Write configuration and helpers; remove what a killed core left."""
        await asyncio.to_thread(self._prepare)

    def _prepare(self) -> None:
        calls = f"{self.folder / 'calls'}/"
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):  # ended meanwhile, or of another user
                if process.environ().get(CALL, "").startswith(calls):
                    process.kill()  # it would write into a mirror beside us
        shutil.rmtree(self.folder / "calls", ignore_errors=True)
        for folder in (self.folder, self.folder / "calls", self.folder / "mirrors"):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        (self.folder / "config").write_text(CONFIGURATION)
        for name, text in (("askpass", ASKPASS), ("ssh", SSH)):
            path = self.folder / name
            path.write_text(text)
            path.chmod(0o700)

    async def run(
        self,
        *arguments: str,
        mirror: Path | None = None,
        remote: Remote | None = None,
        timeout: float = LOCAL_TIMEOUT,
        most: int = MAX_OUTPUT,
        say: Callable[[str], None] | None = None,
        literal: bool = True,
        fails: Sequence[int] = (),
    ) -> bytes:
        """What git prints. Raises GitError. `most` bounds the answer, `say` gets its progress.

        `mirror` is the repository it works in; `literal`: paths are names, not patterns;
        `fails`: exit statuses that are answers too.
        """
        slots = self._local_slots if remote is None else self._remote_slots
        async with slots, self._call(remote) as environment:
            if mirror is not None:
                environment["GIT_DIR"] = str(mirror)
            if literal:
                environment["GIT_LITERAL_PATHSPECS"] = "1"
            try:
                process = await asyncio.create_subprocess_exec(
                    *("git", *arguments),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.PIPE,
                    env=environment,
                    cwd=self.folder,
                    start_new_session=True,
                )
            except OSError as error:
                reason = error.strerror or str(error)
                raise GitError(f"the git program does not start: {reason}") from error
            silence = asyncio.timeout(SILENCE[0] if remote is not None else None)
            try:
                async with asyncio.timeout(timeout), silence:
                    output, said = await _talk(process, most, say, silence)
                    status = await process.wait()
            except TimeoutError:
                if silence.expired():
                    raise GitError("the server does not answer") from None
                raise GitError(f"git was not done within {timeout:g} s") from None
            finally:
                await _end(process)
        if status != 0 and status not in fails:
            raise _explained(said, remote, self.folder)
        return output

    @asynccontextmanager
    async def _call(self, remote: Remote | None) -> AsyncIterator[dict[str, str]]:
        """The environment of a call, with a folder for its secrets if it has a remote."""
        environment = {key: os.environ[key] for key in KEPT_ENVIRONMENT if key in os.environ}
        if "SSL_CERT_FILE" in os.environ:
            environment.setdefault("GIT_SSL_CAINFO", os.environ["SSL_CERT_FILE"])
        environment |= {
            "LC_ALL": "C",
            "HOME": str(self.folder),
            "XDG_CONFIG_HOME": str(self.folder),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": str(self.folder / "config"),
            "GIT_ATTR_NOSYSTEM": "1",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ASKPASS": str(self.folder / "askpass"),
            "GIT_ALLOW_PROTOCOL": ":".join(self.protocols),
            "GIT_NO_REPLACE_OBJECTS": "1",
            "GIT_OPTIONAL_LOCKS": "0",
            "GIT_SSH": str(self.folder / "ssh"),
            "GIT_SSH_VARIANT": "ssh",
            "SSH_ASKPASS": str(self.folder / "askpass"),
            "SSH_ASKPASS_REQUIRE": "force",
            "DISPLAY": "none",  # without one, older versions of ssh do not ask
        }
        if remote is None:
            yield environment
            return
        call = await asyncio.to_thread(_secrets, self.folder / "calls", remote)
        environment[CALL] = str(call)
        try:
            yield environment
        finally:
            await asyncio.to_thread(shutil.rmtree, call, ignore_errors=True)


def _secrets(folder: Path, remote: Remote) -> Path:
    """A folder with the files that the helpers read."""
    call = Path(tempfile.mkdtemp(dir=folder))
    secret = remote.password
    if remote.has_key:
        secret = secret.replace("\r\n", "\n").strip() + "\n"
    for name, text in (
        ("username", remote.username),
        ("key" if remote.has_key else "password", secret),
    ):
        if text:
            descriptor = os.open(call / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(text)
    return call


async def _talk(
    process: asyncio.subprocess.Process,
    most: int,
    say: Callable[[str], None] | None,
    silence: asyncio.Timeout,
) -> tuple[bytes, list[str]]:
    """Read both streams to their end. `silence` begins again with each word of progress."""
    assert process.stdout is not None
    assert process.stderr is not None
    said = asyncio.get_running_loop().create_task(_lines(process.stderr, say, silence))
    try:
        return await _output(process.stdout, most), await said
    finally:
        said.cancel()


async def _output(stream: asyncio.StreamReader, most: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    while chunk := await stream.read(65_536):
        size += len(chunk)
        if size > most:
            raise GitError(f"the answer of git is larger than {most} bytes")
        chunks.append(chunk)
    return b"".join(chunks)


async def _lines(
    stream: asyncio.StreamReader, say: Callable[[str], None] | None, silence: asyncio.Timeout
) -> list[str]:
    """The last lines; progress overwrites its line with a carriage return."""
    loop = asyncio.get_running_loop()
    kept: list[str] = []
    rest = b""
    phase, told = "", 0.0
    while chunk := await stream.read(65_536):
        if silence.when() is not None and not silence.expired():
            silence.reschedule(loop.time() + SILENCE[1])
        *lines, rest = re.split(rb"[\r\n]+", rest + chunk)
        rest = rest[-10_000:]
        for line in lines:
            text = _CONTROL.sub("", line.decode("utf-8", "replace")).strip()
            if not text:
                continue
            kept = [*kept[1 - KEPT_LINES :], text]
            before, phase = phase, text.rpartition(":")[0]
            over = phase != before or "%" not in text or "done" in text
            if say is not None and (over or loop.time() - told >= PROGRESS):
                told = loop.time()
                say(text)
    return [*kept, _CONTROL.sub("", rest.decode("utf-8", "replace")).strip()]


async def _end(process: asyncio.subprocess.Process) -> None:
    """Kill it, with all that it started."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


_REASONS: Final = (
    ("REMOTE HOST IDENTIFICATION HAS CHANGED", "the key of the server is another one than at the "
     "first contact; if that is right, remove its line from {folder}/known_hosts"),
    ("Host key verification failed", "the key of the server cannot be verified"),
    ("Authentication failed", "the server does not accept the credentials"),
    ("Permission denied", "the server does not accept the credentials"),
    ("could not read Username", "the server asks for credentials"),
    ("could not read Password", "the server asks for a password"),
    ("error: 403", "the server refuses access (403)"),
    ("error: 401", "the server does not accept the credentials"),
    ("error: 30", "the server has moved the repository to another address"),
    ("Could not resolve host", "the name of the server is not known"),
    ("Connection refused", "the server refuses the connection"),
    ("Failed to connect", "the server cannot be reached"),
    ("timed out", "the server does not answer"),
    ("Operation too slow", "the server stopped sending"),
    ("certificate", "the certificate of the server is not trusted"),
    ("Load key", "the private key cannot be used (is it protected by a passphrase?)"),
    ("not found", "there is no such repository, or the credentials may not see it"),
    ("does not appear to be a git repository", "there is no git repository"),
    ("does not exist", "there is no such repository"),
    ("couldn't find remote ref", "there is no such branch or commit"),
    ("not our ref", "there is no such commit"),
    ("not allowed", "the protocol is not allowed"),
)  # fmt: skip


def _explained(said: Sequence[str], remote: Remote | None, folder: Path) -> GitError:
    """The error in words, and what git itself said of it."""
    fatal = [line for line in said if line.startswith(("fatal:", "error:"))]
    detail = (fatal or [line for line in said if line] or ["git failed"])[-1]
    detail = detail.partition(":")[2].strip() or detail if fatal else detail
    for secret in (remote.password, remote.username) if remote is not None else ():
        if len(secret) > 3:
            detail = detail.replace(secret, "…").replace(quote(secret, safe=""), "…")
    text = "\n".join(said)
    if remote is not None:
        for sign, reason in _REASONS:
            if sign in text:
                return GitError(f"{reason.format(folder=folder)} (git: {detail[:300]})")
    return GitError(f"git: {detail[:300]}", known=False)
