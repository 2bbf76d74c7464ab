"""One SSH connection. The only file of the SDK that knows asyncssh: only its users pay for it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import asyncssh
from asyncssh.public_key import get_default_public_key_algs, get_public_key_algs

from placeos.driver.errors import DriverError, LeaseLost, NoReply, Offline
from placeos.driver.fencing import sockets
from placeos.driver.framing import MAX_MESSAGE
from placeos.driver.transports import base
from placeos.driver.transports.base import Opening, cut
from placeos.driver.transports.ssh import HOST_KEY, RUN_TIMEOUT, LoginRefused, Output, SshLogin
from placeos.driver.transports.ssh_keys import Known, identity, known_of, private_key
from placeos.driver.transports.ssh_prompt import PromptFramer
from placeos.driver.transports.tcp import MAX_UNSENT

if TYPE_CHECKING:
    from placeos.driver.transports.ssh import SSH

SHELL_TIMEOUT: Final = 5.0  # seconds for the shell, and then for its first prompt
SESSIONS: Final = 4  # commands that run at once beside the shell
MISSED: Final = 3  # keep-alives without an answer after which a device is lost
SCREEN: Final = (250, 250)  # columns and lines; wide and high, so that little is wrapped or paged
METHODS: Final = "publickey,password,keyboard-interactive"
AT_A_TIME: Final = 32 * 1024  # bytes a shell prints before others have their turn
NO_ECHO: Final = {asyncssh.PTY_ECHO: 0}


async def connect(spec: SSH, opening: Opening, login: SshLogin) -> Connection:
    """Connect, log in and open the shell. Raises OSError, LoginRefused and DriverError."""
    known = known_of(login, str(opening.address), opening.author.get(HOST_KEY))
    key = await asyncio.to_thread(private_key, login)  # an encrypted one takes its time
    sock = await sockets.connected(opening.address.host, opening.address.port)
    made = Connection(spec, opening, known, login.password, sock)
    options: dict[str, Any] = {"server_host_key_algs": _algorithms(login, known)}
    if login.insecure:
        kinds = ("kex_algs", "encryption_algs", "mac_algs", "signature_algs")
        options |= dict.fromkeys(kinds, "*")
    try:
        await asyncssh.connect(
            opening.address.host,
            opening.address.port,
            sock=sock,
            config=None,  # nothing from the account this runs under
            agent_path=None,
            gss_host=None,
            client_factory=lambda: made,
            known_hosts=([], [], []),  # so that `made` is asked
            username=login.username,
            preferred_auth=METHODS,
            client_keys=[key] if key is not None else None,
            keepalive_interval=login.keepalive,
            keepalive_count_max=MISSED,
            **options,
        )
        if spec.shell:
            await made.open_shell(login.term)
    except BaseException as error:
        made.drop("no longer wanted")
        if not made.linked:
            sock.close()
        told = made.told(error)
        if told is not None:
            raise told from error
        raise
    return made


def _algorithms(login: SshLogin, known: Known) -> list[str]:
    """For plain keys, no certificates of them; first those of keys the device is known by."""
    usable = get_public_key_algs() if login.insecure else get_default_public_key_algs()
    names = [name.decode() for name in usable]
    return sorted(names, key=lambda name: name not in known.algorithms)


class Connection(asyncssh.SSHClient):
    """One connection: the shell, and commands beside it."""

    def __init__(
        self,
        spec: SSH,
        opening: Opening,
        known: Known,
        password: str | None,
        sock: socket.socket,
    ) -> None:
        self._spec = spec
        self._sock = sock
        self._permit = opening.permit
        self._farewell: sockets.Farewell | None = None
        self._framer = spec.framer()
        self._events = opening.events
        self._log = opening.log
        self._known = known
        self._address = str(opening.address)
        self._password = password
        self._asked = False
        self._link: asyncssh.SSHClientConnection | None = None
        self._ended = asyncio.Event()
        self._shell: asyncssh.SSHClientChannel[bytes] | None = None
        self._prompted: asyncio.Future[None] | None = None
        self._slots = asyncio.Semaphore(SESSIONS)
        self._reason = ""
        self._early: list[bytes] | None = []  # messages that came before `adopt`
        self._lost: Callable[[base.Connection, str], None] | None = None
        self.host_key = ""
        self.identity: dict[str, str] | None = None  # for `remember_host_key`

    # -- what the connector asks ----------------------------------------------------------

    def adopt(self, lost: Callable[[base.Connection, str], None]) -> None:
        """Take the connection into use."""
        if self._ended.is_set():
            lost(self, self._reason)
            return
        self._lost = lost
        early, self._early = self._early, None
        for message in early or ():
            self._events.message(message)

    def write(self, data: bytes) -> None:
        """Type into the shell. A device that takes nothing is dropped. Raises LeaseLost."""
        if self._shell is None or self._ended.is_set() or self._shell.is_closing():
            return
        if self._farewell is not None:
            return
        self._permit.check(self.drop)
        self._log.wire("sent", data)
        self._shell.write(data)
        if self._shell.get_write_buffer_size() > MAX_UNSENT:
            self.drop("the device does not take what is sent")

    def drop(self, reason: str) -> None:
        """End the connection at once."""
        self._reason = self._reason or reason
        if self._link is not None and not self._ended.is_set():
            if not self._waiting():
                sockets.before_close(self._sock)
            self._link.abort()

    def finish(self, reason: str) -> None:
        """End the connection once all is sent."""
        if self._link is None or self._ended.is_set() or self._farewell is not None:
            return
        self._reason = self._reason or reason
        self._farewell = sockets.Farewell(self._sock, self._waiting, lambda: self.drop(reason))

    @property
    def linked(self) -> bool:
        """Whether asyncssh took the socket over."""
        return self._link is not None

    def _waiting(self) -> int:
        """Bytes that the kernel was not given yet."""
        return 0 if self._shell is None else self._shell.get_write_buffer_size()

    async def wait_closed(self) -> None:
        """Returns once the socket is closed."""
        if self._link is not None:
            await self._ended.wait()

    # -- what authors use -----------------------------------------------------------------

    async def run(
        self, command: str, *, stdin: bytes | str = b"", timeout: float = RUN_TIMEOUT
    ) -> Output:
        """Run one command in a session of its own; see `ssh.Shell`."""
        try:
            async with asyncio.timeout(timeout), self._slots:
                return await self._run(command, stdin.encode() if isinstance(stdin, str) else stdin)
        except TimeoutError:
            raise NoReply(f"the command was not finished within {timeout:g} s") from None

    async def _run(self, command: str, stdin: bytes) -> Output:
        if self._link is None or self._ended.is_set():
            raise Offline("the device is not connected")
        self._permit.check(self.drop)
        self._log.wire("sent", command.encode())
        run = _Run()
        try:
            channel, _ = await self._link.create_session(
                lambda: run, command, encoding=None, request_pty=False
            )
        except asyncssh.ChannelOpenError as error:
            raise DriverError(f"the device runs no command: {error.reason}", code=502) from error
        except asyncssh.Error as error:
            raise Offline(f"the connection was lost: {error.reason}") from error
        try:
            with contextlib.suppress(BrokenPipeError):  # of a command that has ended already
                channel.write(stdin)
                channel.write_eof()
            await run.ended.wait()
        finally:
            channel.abort()
        if run.too_much:
            raise DriverError(f"the command prints more than {MAX_MESSAGE} bytes", code=502)
        if run.lost is not None or self._ended.is_set():
            raise Offline("the connection was lost while the command ran")
        stdout, stderr = (
            bytes(run.printed[kind]) for kind in (None, asyncssh.EXTENDED_DATA_STDERR)
        )
        self._log.wire("received", stdout + stderr)
        status = channel.get_exit_status()
        known = status if status is not None and status >= 0 else None
        return Output(stdout.decode(errors="replace"), stderr.decode(errors="replace"), known)

    # -- opening --------------------------------------------------------------------------

    async def open_shell(self, term: str) -> None:
        """Open the shell and wait for its first prompt, if the driver knows how that looks.
        Raises DriverError."""
        assert self._link is not None
        if self._spec.prompt:
            self._prompted = asyncio.get_running_loop().create_future()
        terminal = {"term_type": term, "term_size": SCREEN, "term_modes": NO_ECHO}
        try:
            async with asyncio.timeout(SHELL_TIMEOUT):
                try:
                    self._shell = await self._open_session(request_pty=True, **terminal)
                except asyncssh.ChannelOpenError:  # a device without terminals
                    self._shell = await self._open_session(request_pty=False)
        except TimeoutError:
            raise DriverError(f"the device opened no shell within {SHELL_TIMEOUT:g} s") from None
        except asyncssh.ChannelOpenError as error:
            raise DriverError(f"the device opens no shell: {error.reason}") from error
        if self._prompted is not None:
            await self._first_prompt(self._prompted)

    async def _open_session(self, **how: Any) -> asyncssh.SSHClientChannel[bytes]:
        assert self._link is not None
        shell = _Shell(self)
        try:
            channel, _ = await self._link.create_session(
                lambda: shell, encoding=None, window=AT_A_TIME, **how
            )
        except asyncssh.ChannelOpenError:
            shell.refused = True
            raise
        return channel

    async def _first_prompt(self, prompted: asyncio.Future[None]) -> None:
        try:
            async with asyncio.timeout(SHELL_TIMEOUT):
                await prompted
        except TimeoutError:
            assert isinstance(self._framer, PromptFramer)
            shown = self._framer.last_line.decode(errors="replace")
            raise DriverError(f"the shell shows no such prompt but {shown!r}") from None
        finally:
            self._prompted = None

    def told(self, error: BaseException) -> Exception | None:
        """What to raise instead of an error of asyncssh."""
        match error:
            case asyncssh.PermissionDenied():
                return LoginRefused("the device refuses this name with this password or key")
            case asyncssh.DisconnectError() if "authentication fail" in error.reason.lower():
                return LoginRefused(f"the device refuses the login: {error.reason}")
            case asyncssh.HostKeyNotVerifiable() if self.host_key:
                return DriverError(self._known.refusal(self.host_key))
            case asyncssh.KeyExchangeFailed():
                return DriverError(f"{error.reason} (an old device may need ssh.insecure: true)")
            case asyncssh.Error():
                return DriverError(self._reason if self._ended.is_set() else error.reason)
        return None

    # -- what asyncssh tells and asks -----------------------------------------------------

    def connection_made(self, conn: asyncssh.SSHClientConnection) -> None:
        """A TCP connection stands."""
        self._link = conn

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        what = exc.reason if isinstance(exc, asyncssh.Error) else str(exc or "")
        self._reason = self._reason or what or "closed by the device"
        self._ended.set()
        if self._farewell is not None:
            self._farewell.cancel()
        if self._prompted is not None and not self._prompted.done():
            self._prompted.set_exception(DriverError(self._reason))
        lost, self._lost = self._lost, None
        if lost is not None:
            lost(self, self._reason)

    def validate_host_public_key(
        self, host: str, addr: str, port: int, key: asyncssh.SSHKey
    ) -> bool:
        """Whether it is the device that it should be."""
        self.identity = identity(key, self._address)
        self.host_key = self.identity["fingerprint"]
        return self._known.has(self.host_key)

    def password_auth_requested(self) -> str | None:
        """Give the password, but once: a wrong one shall not lock the account."""
        asked, self._asked = self._asked, True
        return None if asked else self._password

    def kbdint_auth_requested(self) -> str | None:
        """Let the device ask its questions, unless it had the password already."""
        return None if self.password_auth_requested() is None else ""

    def kbdint_challenge_received(
        self, name: str, instructions: str, lang: str, prompts: Any
    ) -> list[str]:
        """Answer all of them with the password."""
        return [self._password or ""] * len(prompts)

    # -- what the shell tells -------------------------------------------------------------

    def receive(self, data: bytes) -> None:
        """The shell printed something."""
        if self._reason:
            return
        self._log.wire("received", data)
        messages = cut(self._framer, data, self._log, self.drop)
        if isinstance(self._framer, PromptFramer) and self._framer.paged:
            with contextlib.suppress(LeaseLost):
                self.write(b" " * self._framer.paged)
            self._framer.paged = 0
        if messages and self._prompted is not None and not self._prompted.done():
            self._prompted.set_result(None)
            del messages[0]  # the greeting
        for message in messages:
            if self._early is not None:
                self._early.append(message)
            else:
                self._events.message(message)

    def shell_ended(self) -> None:
        """Without a shell the connection is of no use."""
        self.drop("the device closed the shell")


class _Shell(asyncssh.SSHClientSession[bytes]):
    """The session of the shell."""

    def __init__(self, owner: Connection) -> None:
        self._owner = owner
        self.refused = False  # it never was a shell

    def data_received(self, data: bytes, datatype: int | None) -> None:
        """Output of either kind."""
        self._owner.receive(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """If the whole connection is lost, that is told next and is the better reason."""
        if not self.refused:
            asyncio.get_running_loop().call_soon(self._owner.shell_ended)


class _Run(asyncssh.SSHClientSession[bytes]):
    """The session of one command."""

    def __init__(self) -> None:
        self.printed = {None: bytearray(), asyncssh.EXTENDED_DATA_STDERR: bytearray()}
        self.ended = asyncio.Event()
        self.lost: Exception | None = None
        self.too_much = False

    def data_received(self, data: bytes, datatype: int | None) -> None:
        """Output of one kind."""
        self.printed[datatype] += data
        if sum(map(len, self.printed.values())) > MAX_MESSAGE:
            self.too_much = True
            self.ended.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """The command has ended, or the connection has."""
        self.lost = exc
        self.ended.set()
