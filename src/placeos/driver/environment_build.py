"""Builds environments with uv, and keeps them: a folder each, named by all that is in it.

A store's folder holds::

    <key>/            an environment; key: hash of the lock and of the base it was made for
    wishes/<digest>   the key that a file's block led to: no uv is needed to find it again
    cache/            uv's own; may be removed at any time
    building/         work under way; emptied by `Store.clear`

An environment is a venv of the interpreter that the platform runs on. Its packages come first;
what they lack is found in the base installation. No code of a package is run by building
(unless source packages are allowed) nor by starting Python in it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import re
import secrets
import shutil
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final

from placeos.driver.environment import (
    SDK,
    SERVER_EXTRA,
    Block,
    EnvironmentProblem,
    base_folders,
    base_identity,
    constraints,
    normalised,
)

BUILD_TIMEOUT: Final = 600.0  # seconds
MAX_OUTPUT: Final = 50  # last lines of uv kept for the error
BASE_LINK: Final = "_placeos_base.pth"
FILES: Final = "placeos-files.json"
_CREDENTIALS: Final = re.compile(r"(?<=://)[^/@\s]+@")
_PASSED_ON: Final = (
    *("HOME", "XDG_CONFIG_HOME", "NETRC", "LANG", "LC_ALL", "PATH", "TMPDIR"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"),
    *("http_proxy", "https_proxy", "all_proxy", "no_proxy"),
)


@dataclass(frozen=True, slots=True)
class Packages:
    """Where packages come from. uv's own configuration (uv.toml, UV_…) applies beneath."""

    index: str = ""
    """URL of the index, with credentials if it needs them; more after a space."""
    folder: str = ""
    """Folder of wheels. Without an index it is the only source."""
    offline: bool = False
    """Never use the network: the folder, or what was fetched before."""
    from_source: bool = False
    """Also packages without a wheel: their code is run to build them, with our rights."""

    def environment(self, environ: Mapping[str, str], cache: Path) -> dict[str, str]:
        """Environment of the uv process. Credentials go this way: it is no command line."""
        found = {key: environ[key] for key in _PASSED_ON if key in environ}
        found |= {key: value for key, value in environ.items() if key.startswith("UV_")}
        found |= {"UV_CACHE_DIR": str(cache), "UV_NO_PROGRESS": "1", "NO_COLOR": "1"}
        first, _, others = self.index.partition(" ")
        if first:
            found |= {"UV_DEFAULT_INDEX": first, "UV_INDEX": others.strip()}
        if self.folder:
            found["UV_FIND_LINKS"] = self.folder
            if not first:
                found["UV_NO_INDEX"] = "1"
        if self.offline:
            found["UV_OFFLINE"] = "1"
        return found


@dataclass(frozen=True, slots=True)
class Environment:
    """A folder with packages, ready to be used."""

    folder: Path

    @property
    def key(self) -> str:
        """Equal for equal contents."""
        return self.folder.name

    @property
    def python(self) -> Path:
        """The interpreter whose packages these are."""
        return self.folder / "bin" / "python"

    @property
    def packages(self) -> Path:
        """What comes first on the path of this interpreter."""
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        return self.folder / "lib" / version / "site-packages"

    def is_whole(self) -> bool:
        """Whether each file is there, in the size in which it was built."""
        try:
            known = json.loads((self.folder / FILES).read_bytes())
            sizes = ((self.folder / name).stat().st_size == known[name] for name in known)
            return all(sizes) and self.python.exists()
        except (OSError, ValueError):
            return False


class Store:
    """Environments in one folder, which one process at a time may use."""

    def __init__(self, folder: Path, packages: Packages) -> None:
        self._folder = folder
        self._packages = packages

    def find(self, block: Block) -> Environment | None:
        """The environment that was built for such a block, if it is still there. Needs no uv."""
        try:
            key = (self._folder / "wishes" / block.digest).read_text()
        except (OSError, UnicodeDecodeError):
            return None
        found = Environment(self._folder / key)
        if not found.is_whole():
            return None
        with contextlib.suppress(OSError):  # only `forget` would miss it
            os.utime(found.folder)
        return found

    async def build(self, block: Block, say: Callable[[str], None]) -> Environment:
        """Build one, or find that the same lock was built before.

        `say` gets lines of progress. Raises EnvironmentProblem. Cancelling ends uv; nothing
        half-built is left.
        """
        work = self._folder / "building" / secrets.token_hex(8)
        try:
            async with asyncio.timeout(BUILD_TIMEOUT):
                await asyncio.to_thread(self._prepare, work, block)
                return await self._build(work, block, say)
        except TimeoutError:
            raise EnvironmentProblem(
                f"{block.file}:{block.line}: its environment was not built within "
                f"{BUILD_TIMEOUT:g} s"
            ) from None
        except OSError as error:
            raise EnvironmentProblem(f"{block.file}:{block.line}: {error}") from error
        finally:
            await asyncio.shield(asyncio.to_thread(shutil.rmtree, work, ignore_errors=True))

    async def _build(self, work: Path, block: Block, say: Callable[[str], None]) -> Environment:
        uv = _Uv(work, self._packages.environment(os.environ, self._folder / "cache"), block, say)
        script, venv = work / "driver.py", work / "venv"
        build = [] if self._packages.from_source else ["--no-build"]
        say(f"Resolving {', '.join(one.text for one in block.dependencies)}")
        await uv.run("lock", "--script", script, "--python", sys.executable, *build)
        lock = (work / "driver.py.lock").read_text()
        target = self._folder / _key(lock)
        if target.exists() and not await asyncio.to_thread(Environment(target).is_whole):
            say("The environment of this lock is damaged, it is built anew")
            await asyncio.to_thread(self._remove, target)
        if not target.exists():
            await uv.run("venv", venv, "--python", sys.executable, "--relocatable", "--no-project")
            place = {"VIRTUAL_ENV": str(venv)}
            await uv.run("sync", "--script", script, "--frozen", "--active", *build, **place)
            await asyncio.to_thread(_finish, Environment(venv), block)
            await _try_out(Environment(venv), block, say)
            await asyncio.to_thread(_note_files, Environment(venv))
            with contextlib.suppress(OSError):  # somebody else was first
                venv.rename(target)
        if not target.exists():
            raise EnvironmentProblem(f"{block.file}: cannot move the environment to {target}")
        _replace(self._folder / "wishes" / block.digest, target.name)
        say(f"Ready: {target.name}")
        return Environment(target)

    def _prepare(self, work: Path, block: Block) -> None:
        for folder in (work, self._folder / "wishes", self._folder / "cache"):
            folder.mkdir(parents=True, exist_ok=True)
        (work / "driver.py").write_text(block.script())
        if block.lock:
            (work / "driver.py.lock").write_text(block.lock)

    def clear(self) -> None:
        """Remove what builds that were interrupted left behind. None may be under way."""
        shutil.rmtree(self._folder / "building", ignore_errors=True)

    def forget(self, in_use: frozenset[Path], keep: int) -> None:
        """Remove all environments but those in use and the `keep` that were used last."""
        found = [path for path in self._folder.iterdir() if (path / "bin" / "python").exists()]
        unused = [path for path in found if path not in in_use]
        unused.sort(key=lambda path: path.stat().st_mtime, reverse=True)
        for old in unused[keep:]:
            self._remove(old)
        for wish in (self._folder / "wishes").glob("*"):
            if not (self._folder / wish.read_text(errors="replace")).exists():
                wish.unlink()

    def _remove(self, old: Path) -> None:
        aside = self._folder / "building" / secrets.token_hex(8)
        aside.parent.mkdir(exist_ok=True)
        old.rename(aside)  # at once: whatever is found under its name is whole
        shutil.rmtree(aside, ignore_errors=True)


class _Uv:
    """Runs uv for one build."""

    def __init__(
        self, work: Path, environment: dict[str, str], block: Block, say: Callable[[str], None]
    ) -> None:
        self._work = work
        self._environment = environment
        self._block = block
        self._say = say

    async def run(self, *arguments: str | Path, **environment: str) -> None:
        """Raises EnvironmentProblem with uv's own words, and the line they are about."""
        command = (_find_uv(), *arguments, "--no-python-downloads", "--directory", self._work)
        code, output = await _output(command, self._environment | environment, self._say)
        if code != 0:
            errors = [line for line in output if not line.startswith("warning:")]
            raise EnvironmentProblem(self._block.explain("\n".join(errors)))


def _find_uv() -> str:
    try:
        from uv import find_uv_bin
    except ImportError:
        raise EnvironmentProblem(f"packages of drivers need {SERVER_EXTRA}") from None
    try:
        return find_uv_bin()
    except FileNotFoundError as error:
        raise EnvironmentProblem(f"uv cannot be found: {error}") from error


async def _output(
    command: tuple[str | Path, ...],
    environment: dict[str, str],
    say: Callable[[str], None],
) -> tuple[int, list[str]]:
    """Run a program: its exit status and the last lines it wrote. It ends with its caller."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=environment,
        start_new_session=True,  # with a group of its own, which ends with it
    )
    lines: list[str] = []
    assert process.stdout is not None
    try:
        while text := await process.stdout.readline():
            line = _CREDENTIALS.sub("", text.decode("utf-8", "replace").rstrip())
            if line:
                say(line)
                lines = [*lines[1 - MAX_OUTPUT :], line]
        return await process.wait(), lines
    except ValueError:  # a line longer than the reader's limit
        return 1, [*lines, "it wrote a line that is too long"]
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await asyncio.shield(process.wait())


async def _try_out(environment: Environment, block: Block, say: Callable[[str], None]) -> None:
    """The SDK must be usable among these packages. Their byte code is written on the way:
    driver processes may not write there."""
    say("Compiling, and trying it out with the SDK")
    code = (
        "import compileall, sys, placeos.driver.parent; "
        "compileall.compile_dir(sys.argv[1], quiet=2)"
    )
    command = (environment.python, "-I", "-c", code, environment.packages)
    status, output = await _output(command, {}, lambda _: None)
    if status != 0:
        reason = output[-1] if output else f"Python ended with status {status}"
        raise EnvironmentProblem(
            f"{block.file}:{block.line}: the SDK cannot be used with these packages: {reason}"
        )


def _key(lock: str) -> str:
    return hashlib.sha256(f"{lock}\0{base_identity()}".encode()).hexdigest()[:24]


def _finish(environment: Environment, block: Block) -> None:
    """Lead from the new packages to the base, and let none of them run by itself."""
    packages = environment.packages
    _disarm(packages)
    _check_owners(packages, block)
    # A plain path would miss what an editable installation of the base adds.
    lines = [f"import site; site.addsitedir({folder!r})\n" for folder in base_folders()]
    (packages / BASE_LINK).write_text("".join(lines))


def _disarm(packages: Path) -> None:
    """Take away what would run code of packages whenever Python starts: the parent of driver
    processes starts before they are confined."""
    for path in packages.glob("*.pth"):
        lines = path.read_text(errors="surrogateescape").splitlines()
        harmless = [line for line in lines if not line.startswith(("import ", "import\t"))]
        _replace(path, "\n".join(harmless) + "\n")
    for name in ("sitecustomize", "usercustomize"):
        for path in packages.glob(f"{name}*"):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def _note_files(environment: Environment) -> None:
    """Note what belongs to it, for `is_whole`. Byte code may come and go."""
    root = environment.folder
    found = (path for path in root.rglob("*") if "__pycache__" not in path.parts)
    own = [path for path in found if path.is_file() and not path.is_symlink()]
    sizes = {str(path.relative_to(root)): path.stat().st_size for path in own}
    (root / FILES).write_text(json.dumps(sizes))


def _check_owners(packages: Path, block: Block) -> None:
    """No package may bring a module that belongs to the SDK or to what it imports."""
    sdk = {SDK, *(normalised(one) for one in constraints())}
    owners = {SDK: {SDK}}
    for module, names in metadata.packages_distributions().items():
        if rightful := sdk & {normalised(name) for name in names}:
            owners.setdefault(module, rightful)
    for distribution in metadata.distributions(path=[str(packages)]):
        name = normalised(distribution.name)
        for file in distribution.files or ():
            module = file.parts[0].partition(".")[0]
            if module in owners and name not in owners[module]:
                raise EnvironmentProblem(
                    block.explain(f"{name} {distribution.version} contains {module!r}, a module "
                                  f"of {', '.join(owners[module])}")
                )  # fmt: skip


def _replace(path: Path, text: str) -> None:
    """Write a file aside and put it in place: it may be a hard link into uv's cache."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    partial.write_text(text, errors="surrogateescape")
    partial.replace(path)
