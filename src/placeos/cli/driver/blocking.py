"""Calls in a driver file that would block its process, found in the text alone. Pure."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Advice:
    """What blocks, and what to write instead. Not everything blocks for long: `severe`."""

    instead: str
    severe: bool = True


_HTTP: Final = Advice("self.http, or another asynchronous library")
_SOCKET: Final = Advice("a transport such as TCP, or asyncio.open_connection")
_PROCESS: Final = Advice(
    "a library that starts no program: the platform lets drivers start none, unless its "
    "administrator allows it; then await asyncio.create_subprocess_exec(…)"
)
_FILE: Final = Advice("await asyncio.to_thread(…)", severe=False)

CALLS: Final[dict[str, Advice]] = {
    "time.sleep": Advice("await asyncio.sleep(…), or self.schedule.in_(…)"),
    "input": Advice("a function with an argument"),
    "os.system": _PROCESS,
    "os.popen": _PROCESS,
    "subprocess.run": _PROCESS,
    "subprocess.call": _PROCESS,
    "subprocess.check_call": _PROCESS,
    "subprocess.check_output": _PROCESS,
    "subprocess.Popen": _PROCESS,
    "urllib.request.urlopen": _HTTP,
    "urllib.request.urlretrieve": _HTTP,
    "http.client.HTTPConnection": _HTTP,
    "http.client.HTTPSConnection": _HTTP,
    "socket.socket": _SOCKET,
    "socket.create_connection": _SOCKET,
    "socket.getaddrinfo": Advice("await asyncio.get_running_loop().getaddrinfo(…)"),
    "socket.gethostbyname": Advice("await asyncio.get_running_loop().getaddrinfo(…)"),
    "paramiko.SSHClient": Advice("the transport SSH"),
    "telnetlib.Telnet": Advice("the transport TCP"),
    "serial.Serial": Advice("the transport Serial"),
    "smtplib.SMTP": Advice("await asyncio.to_thread(…), or an asynchronous library"),
    "asyncio.run": Advice("await"),
}
_LIBRARIES: Final = {"requests": _HTTP, "urllib3": _HTTP}
_HTTPX: Final = frozenset({"get", "post", "put", "patch", "delete", "head", "request", "Client"})
_FILES: Final = frozenset({"read_text", "read_bytes", "write_text", "write_bytes"})


@dataclass(frozen=True)
class Blocking:
    """One such call."""

    line: int
    call: str
    advice: Advice


def blocking_calls(text: str) -> list[Blocking]:
    """All in the functions of a file, by line. Raises SyntaxError.

    A function inside a function is left out: it may be meant for a thread.
    """
    tree = ast.parse(text)
    names = dict(_imported(tree))
    found = [
        Blocking(call.lineno, name, advice)
        for function in _functions(tree)
        for call in _calls(function)
        for name in [_name(call.func, names)]
        for advice in [_advice(name, in_coroutine=isinstance(function, ast.AsyncFunctionDef))]
        if advice is not None
    ]
    return sorted(found, key=lambda one: one.line)


def _advice(name: str, *, in_coroutine: bool) -> Advice | None:
    if name in CALLS:
        return CALLS[name]
    library, _, member = name.partition(".")
    if library in _LIBRARIES and member:
        return _LIBRARIES[library]
    if library == "httpx" and member in _HTTPX:
        return _HTTP
    if in_coroutine and (name in ("open", "io.open") or name.rpartition(".")[2] in _FILES):
        return _FILE
    return None


def _imported(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Names of the file and what they stand for: `sleep` → `time.sleep`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                if name.asname:
                    yield name.asname, name.name
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for name in node.names:
                yield name.asname or name.name, f"{node.module}.{name.name}"


def _functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Those of the file and of its classes, and coroutines wherever they are."""
    waiting: list[tuple[ast.AST, bool]] = [(tree, False)]
    while waiting:
        node, inside = waiting.pop()
        for child in ast.iter_child_nodes(node):
            is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            if isinstance(child, ast.AsyncFunctionDef) or (
                isinstance(child, ast.FunctionDef) and not inside
            ):
                yield child
            waiting.append((child, inside or is_function))


def _calls(function: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[ast.Call]:
    """Calls in a function, but not in the functions inside it."""
    waiting: list[ast.AST] = list(function.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.Call):
            yield node
        waiting.extend(ast.iter_child_nodes(node))


def _name(node: ast.expr, names: dict[str, str]) -> str:
    """`t.sleep` → `time.sleep`, if the file says `import time as t`."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return f"….{parts[0]}" if parts else ""
    return ".".join([names.get(node.id, node.id), *reversed(parts)])
