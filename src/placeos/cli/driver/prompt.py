"""The prompt of `placeos driver run`: on a terminal live, else line by line."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

from placeos.cli.driver.session import Session
from placeos.cli.driver.words import (
    WrongWords,
    arguments,
    setting,
    shown,
    typed,
    value,
    words,
)
from placeos.cli.output import show
from placeos.wire.errors import CallError

if TYPE_CHECKING:
    from prompt_toolkit.completion import Completer

COMMANDS: Final = {
    ":functions": "the functions of the driver",
    ":state": "the live state",
    ":settings": "the settings that were given",
    ":set": "change a setting: `:set name=value`; without a value it is asked for unseen",
    ":wire": "show what is sent and received: `:wire on`, `:wire off`",
    ":reload": "load the file again, as it is when it was saved",
    ":help": "this list",
    ":quit": "end",
}
COLORS: Final = {"state": "36", "wire": "2", "log": "33", "fault": "31", "error": "31", "note": "2"}
RESULT: Final = "=>"


class Shell:
    """Understands lines, and says what comes of them."""

    def __init__(self, colored: bool) -> None:
        self.session: Session
        self.failed = False
        """Whether something that was typed failed."""
        self.ask_unseen: Callable[[str], Awaitable[str]]
        self._colored = colored
        self._held: list[str] | None = None  # while nothing may be printed
        self._calls: set[asyncio.Task[None]] = set()

    def say(self, kind: str, text: str) -> None:
        """Print a line of news."""
        first, *more = text.splitlines() or [""]
        lines = [f"{kind:<6} {first}", *(f"       {line}" for line in more)]
        body = "\n".join(lines)
        if self._colored and kind in COLORS:
            body = f"\x1b[{COLORS[kind]}m{body}\x1b[0m"
        self.print(body)

    def print(self, text: str) -> None:
        """Print lines, now or as soon as it is allowed."""
        if self._held is None:
            print(text, flush=True)
        else:
            self._held.append(text)

    @contextlib.contextmanager
    def quiet(self) -> Iterator[None]:
        """Hold back what is to be printed: while that is done a terminal echoes what is typed."""
        self._held = []
        try:
            yield
        finally:
            held, self._held = self._held, None
            for text in held:
                self.print(text)

    async def enter(self, line: str, *, wait: bool) -> bool:
        """Do what a line says; with `wait` calls are awaited. False: it is the end."""
        try:
            given = words(line)
            if not given:
                return True
            if given[0] == ":quit":
                return False
            if given[0].startswith(":"):
                await self._command(given[0], line.strip().removeprefix(given[0]).strip())
            elif wait:
                await self._call(given)
            else:
                task = asyncio.create_task(self._call(given))
                self._calls.add(task)
                task.add_done_callback(self._calls.discard)
        except WrongWords as error:
            self._fail(str(error))
        return True

    async def _call(self, given: list[str]) -> None:
        function = given[0]
        known = self.session.functions
        if function not in known:
            self._fail(f"there is no function {function}; :functions lists them")
            return
        try:
            passed = arguments(given[1:], known[function])
            result = await self.session.call(function, passed)
        except WrongWords as error:
            self._fail(str(error))
        except CallError as error:
            file = str(self.session.file.resolve())
            own = [line for line in error.backtrace if line.startswith(file)]
            place = "\n".join(["", *(own or error.backtrace)])
            self._fail(f"{error.kind or error.failure}: {error.message}{place}")
        else:
            self.print(f"{RESULT} {show(result)}")

    async def _command(self, command: str, rest: str) -> None:
        match command:
            case ":functions":
                for name in self.session.functions:
                    self.print(f"  {self.session.signature(name)}")
            case ":state":
                for key in sorted(self.session.state):
                    self.print(f"  {key} = {show(self.session.state[key])}")
            case ":settings":
                schema = self.session.schema
                given = shown(self.session.target.typed(schema), schema)
                for name in sorted(given):
                    self.print(f"  {name} = {show(given[name])}")
            case ":set":
                await self._set(rest)
            case ":wire":
                self.session.wire = value(rest) not in ("off", False)
            case ":reload":
                await self.session.reload()
            case ":help":
                for name, about in COMMANDS.items():
                    self.print(f"  {name:<11} {about}")
                self.print("  power true, power state=true: call a function")
            case _:
                self._fail(f"there is no command {command}; :help lists them")

    async def _set(self, rest: str) -> None:
        schema = self.session.schema
        if rest and "=" not in rest:
            name = rest
            details = schema.get("properties", {}).get(name, {})
            content = typed(await self.ask_unseen(f"{name}: "), details)
        else:
            name, content = setting(rest, schema)
        try:
            await self.session.set(name, content)
        except CallError as error:
            self._fail(error.message)
        else:
            text = show(shown({name: content}, schema)[name])
            self.say("note", f"{name} = {text}")

    def _fail(self, text: str) -> None:
        self.failed = True
        self.say("error", text)


async def run_lines(shell: Shell) -> None:
    """Do what standard input says, one line after the other."""
    lines = _lines_of_stdin()

    async def ask_unseen(_: str) -> str:
        return (await lines.get() or "").strip()

    shell.ask_unseen = ask_unseen
    while (line := await lines.get()) is not None:
        if not await shell.enter(line, wait=True):
            return


def _lines_of_stdin() -> asyncio.Queue[str | None]:
    """Lines as they come; None at the end. Read by a thread that nobody waits for."""
    loop = asyncio.get_running_loop()
    lines: asyncio.Queue[str | None] = asyncio.Queue()

    def read() -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
            for line in sys.stdin:
                loop.call_soon_threadsafe(lines.put_nowait, line)
            loop.call_soon_threadsafe(lines.put_nowait, None)

    threading.Thread(target=read, name="stdin", daemon=True).start()
    return lines


async def run_prompt(shell: Shell, prompt: str) -> None:
    """A live prompt; what happens is shown above it."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.patch_stdout import patch_stdout

    session: PromptSession[str] = PromptSession(
        completer=_completer(shell), complete_while_typing=False
    )
    unseen: PromptSession[str] = PromptSession(is_password=True)

    async def ask_unseen(text: str) -> str:
        with shell.quiet():
            return await unseen.prompt_async(text)

    shell.ask_unseen = ask_unseen
    with patch_stdout(raw=True):
        while True:
            try:
                line = await session.prompt_async(f"{prompt}> ")
            except EOFError:
                return
            except KeyboardInterrupt:
                print("(:quit ends it)", flush=True)
                continue
            if not await shell.enter(line, wait=False):
                return


def completions(shell: Shell, before: str) -> Iterator[str]:
    """What the word under the cursor may become."""
    *earlier, begun = before.split(" ")
    if not earlier:
        candidates = [*shell.session.functions, *COMMANDS]
    elif earlier[0] == ":set":
        candidates = [f"{name}=" for name in shell.session.schema.get("properties", {})]
    elif earlier[0] == ":wire":
        candidates = ["on", "off"]
    else:
        candidates = [f"{name}=" for name in shell.session.functions.get(earlier[0], ())]
    return (candidate for candidate in candidates if candidate.startswith(begun))


def _completer(shell: Shell) -> Completer:
    from prompt_toolkit.completion import Completer, Completion

    class Words(Completer):
        def get_completions(self, document: Any, complete_event: Any) -> Iterator[Completion]:
            before = document.text_before_cursor.lstrip()
            begun = before.rpartition(" ")[2]
            for candidate in completions(shell, before):
                yield Completion(candidate, start_position=-len(begun))

    return Words()
