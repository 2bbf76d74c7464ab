"""The fork parent: imports everything a driver needs once, then forks driver processes.

Run as `python -m placeos.driver.parent FD [PAGE]`: a SOCK_SEQPACKET socket to core, and the
page of core's deadlines (see fencing/page.py), without which nothing is fenced.
Single thread, no event loop: a child starts from a clean process. Messages are JSON::

    core →    {"fork": key, "path": driver file, "title": text, "confine": how}
                  with the child's link socket and the pipe that takes its output
              {"ping": n}
              {"look": true}  the deadlines were moved
    parent →  {"forked": key, "pid": n}   {"failed": key, "error": text}   {"pong": n}
              {"exited": key, "pid": n, "status": exit status, or minus the signal}
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import os
import select
import signal
import socket
import sys
from typing import Final

import msgspec

from placeos.driver import process
from placeos.driver.confinement.confine import Confine, confine, die_with_parent, prctl
from placeos.driver.fencing import apart, permit
from placeos.driver.fencing.page import Page
from placeos.driver.fencing.timer import KillTimer

MAX_MESSAGE: Final = 65_536  # bytes
_PR_SET_NAME: Final = 15


class Request(msgspec.Struct):
    """To fork, or (with a number in `ping`) to say that it lives."""

    fork: str = ""
    path: str = ""
    title: str = ""
    confine: Confine | None = None
    ping: int = 0
    look: bool = False  # at the page: nothing else to do
    clock: str = ""  # where a test tells the time; see told_loop.py


class Parent:
    """Forks on request and tells of every end."""

    def __init__(self, control: socket.socket, page: Page | None = None) -> None:
        self._control = control
        self._page = page
        self._timer = KillTimer() if page is not None else None
        self._armed = 0  # the deadline it is set by
        self._own = os.pidfd_open(os.getpid())  # by which children see whether this one lives
        self._children: dict[int, tuple[str, int]] = {}  # pidfd → key, pid
        self._poll = select.poll()
        self._poll.register(control, select.POLLIN)

    def serve(self) -> None:
        """Until core goes away; then no child is left."""
        while True:
            self._arm()
            for fd, _ in self._poll.poll():
                self._arm()  # before a fork: by then the kernel watches over this process
                if fd in self._children:
                    self._reap(fd)
                elif not self._request():
                    self._kill_all()
                    return

    def _arm(self) -> None:
        """Have the kernel kill this process, and with it its children, past the deadline."""
        if self._page is not None and self._timer is not None:
            deadline = self._page.extended
            if deadline > self._armed:
                self._timer.arm(deadline)
                self._armed = deadline

    def _request(self) -> bool:
        """Read one request. False: core is gone."""
        try:
            data, fds, _, _ = socket.recv_fds(self._control, MAX_MESSAGE, 2)
        except ConnectionError:
            return False
        if not data:
            return False
        try:
            request = msgspec.json.decode(data, type=Request)
        except msgspec.MsgspecError as error:
            self._tell({"failed": "", "error": f"unreadable request: {error}"})
        else:
            if request.ping:
                self._tell({"pong": request.ping})
            elif request.look:
                pass  # done before each request
            elif fds:
                self._fork(request, fds)
            else:
                self._tell({"failed": request.fork, "error": "no socket came with the request"})
        for fd in fds:
            os.close(fd)
        return True

    def _fork(self, request: Request, fds: list[int]) -> None:
        programs = request.confine is not None and request.confine.programs
        parent = os.getpid()
        try:
            pid, together = apart.fork(apart=programs)
        except OSError as error:
            self._tell({"failed": request.fork, "error": str(error)})
            return
        if pid == 0:
            self._become_child(request, fds, 0 if programs and not together else parent, together)
        pidfd = os.pidfd_open(pid)
        self._children[pidfd] = (request.fork, pid)
        self._poll.register(pidfd, select.POLLIN)
        self._tell({"forked": request.fork, "pid": pid})

    def _become_child(self, request: Request, fds: list[int], parent: int, together: str) -> None:
        """In the child: never returns. `together`: why what it starts may outlive it."""
        status = 1
        try:
            die_with_parent(parent)
            self._control.close()
            for pidfd in self._children:
                os.close(pidfd)
            link, *output = fds
            for fd in output:
                os.dup2(fd, 1)
                os.dup2(fd, 2)
                os.close(fd)
            _set_name(request.title or os.path.basename(request.path))  # noqa: PTH119 - no import
            faulthandler.enable()  # a crash of native code leaves its stack in the output
            level = confine(request.confine, request.path, parent) if request.confine else {}
            if together:
                level["programs"] += f"; they may outlive their driver: {together}"
            if select.select([self._own], [], [], 0)[0]:  # seen from a pid namespace too
                os._exit(1)
            os.close(self._own)
            status = process.main(socket.socket(fileno=link), request.path, level, request.clock)
        except SystemExit as error:
            status = error.code if isinstance(error.code, int) else 1
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            try:
                sys.stderr.flush()
                sys.stdout.flush()
            finally:
                os._exit(status)

    def _reap(self, pidfd: int) -> None:
        key, pid = self._children.pop(pidfd)
        self._poll.unregister(pidfd)
        os.close(pidfd)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)  # programs that it started
        _, status = os.waitpid(pid, 0)
        self._tell({"exited": key, "pid": pid, "status": os.waitstatus_to_exitcode(status)})

    def _kill_all(self) -> None:
        for pidfd, (_, pid) in self._children.items():
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            os.waitpid(pid, 0)

    def _tell(self, message: dict[str, object]) -> None:
        try:
            self._control.send(msgspec.json.encode(message))
        except OSError as error:  # core is gone: the next read says so
            sys.stderr.write(f"fork parent: {error}\n")


def _set_name(name: str) -> None:
    prctl(_PR_SET_NAME, ctypes.create_string_buffer(name.encode()[:15]))


def main() -> None:
    """Serve on the socket whose number is the first argument; the second is the page's."""
    die_with_parent(os.getppid())
    for number in (signal.SIGINT, signal.SIGTERM):  # often sent to a whole group of processes:
        signal.signal(number, signal.SIG_IGN)  # core, which also gets it, ends us in good order
    control = socket.socket(fileno=int(sys.argv[1]))
    page = None
    if len(sys.argv) > 2:
        page = Page(int(sys.argv[2]))
        os.close(int(sys.argv[2]))
        permit.use(page)
    gc.disable()
    gc.collect()
    gc.freeze()
    Parent(control, page).serve()


if __name__ == "__main__":
    main()
