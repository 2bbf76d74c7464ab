"""What packages a driver file asks for: its PEP 723 block, read and judged. Nothing is run here.

::

    # /// script
    # requires-python = ">=3.11"
    # dependencies = ["pymodbus>=3.8"]
    # ///

A file may name packages and versions. Where they come from, and whether source code of
packages may be run to build them, is the administrator's to say; of `[tool.uv]` only
`exclude-newer` is taken. Format: https://peps.python.org/pep-0723/
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
import site
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Final

SDK: Final = "placeos"
SERVER_EXTRA: Final = "uv and packaging, which are not installed: pip install 'placeos[server]'"
ALLOWED_FIELDS: Final = frozenset({"dependencies", "requires-python", "tool"})
ALLOWED_OF_UV: Final = frozenset({"exclude-newer"})

_NOT_IMPORTED: Final = frozenset({"typer", "rich"})
"""Requirements of the command line: no driver process has them in it."""
_OPEN: Final = "# /// script"
_CLOSE: Final = "# ///"
_NAME: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
_EXTRAS: Final = re.compile(r"\s*\[[^\]]*\]")


class EnvironmentProblem(Exception):
    """An environment cannot be had; the message says why, with file and line if they are known."""


@dataclass(frozen=True, slots=True)
class Dependency:
    """One line of `dependencies`: as written, the normalised name, and its line in the file."""

    text: str
    name: str
    line: int


@dataclass(frozen=True, slots=True)
class Block:
    """What a driver file asks for. `lock` is the text of the `<file>.lock` beside it, or ""."""

    file: str
    line: int
    dependencies: tuple[Dependency, ...]
    exclude_newer: str = ""
    lock: str = ""

    @property
    def digest(self) -> str:
        """Equal for equal wishes on the same base: what an environment is remembered by."""
        texts = sorted(one.text for one in self.dependencies)
        return _digest(texts, self.exclude_newer, self.lock, base_identity())

    def script(self) -> str:
        """A Python file that asks for the same, with what the SDK needs as constraints."""
        version = f"=={sys.version_info.major}.{sys.version_info.minor}.*"
        lines = [
            f"requires-python = {json.dumps(version)}",
            f"dependencies = {json.dumps([one.text for one in self.dependencies])}",
            "[tool.uv]",
            f"constraint-dependencies = {json.dumps(constraints())}",
            # The SDK is the base's: no package may bring another one.
            f"override-dependencies = [\"{SDK} ; python_version < '0'\"]",
        ]
        if self.exclude_newer:
            lines.append(f"exclude-newer = {json.dumps(self.exclude_newer)}")
        return "".join(f"# {line}\n" for line in ("/// script", *lines, "///"))

    def explain(self, output: str) -> str:
        """The words of a failed build in one line, led by the line of the file to blame."""
        words = " ".join(output.split()).replace("error: ", "").replace(" cause: ", ": ")
        words = words.replace("`uv.lock`", f"{self.file}.lock")
        blamed = [one for one in self.dependencies if _mentions(words, one.name)]
        blamed.sort(key=lambda one: f"you require {one.text}" not in words)
        line, what = (blamed[0].line, f"{blamed[0].text!r}: ") if blamed else (self.line, "")
        needed = {text for text in constraints() if _mentions(words, normalised(text))}
        if needed:
            words += f" (The platform's SDK needs {', '.join(sorted(needed))}.)"
        if "`--no-build`" in words:
            words += " (An administrator can allow it: PLACEOS_PACKAGES_FROM_SOURCE.)"
        return f"{self.file}:{line}: {what}{words}"


def read(path: Path) -> Block | None:
    """What a driver file, and the lock beside it, ask for; None if that is no package.

    Raises EnvironmentProblem, and OSError when the file cannot be read.
    """
    text = path.read_bytes().decode("utf-8-sig", "replace")  # some editors begin with a mark
    if _OPEN not in text:
        return None
    lock = path.with_name(path.name + ".lock")
    locked = lock.read_bytes().decode("utf-8", "replace") if lock.exists() else ""
    return parse(path.name, text, locked)


def parse(file: str, text: str, lock: str = "") -> Block | None:
    """The PEP 723 block of a file's text; None if it asks for no package.

    Raises EnvironmentProblem naming file and line.
    """
    lines = [line.rstrip() for line in text.split("\n")]
    opened = [number for number, line in enumerate(lines) if line == _OPEN]
    if not opened:
        return None
    first = end = opened[0]
    closed = 0
    while end + 1 < len(lines) and (lines[end + 1] == "#" or lines[end + 1].startswith("# ")):
        end += 1
        if lines[end] == _CLOSE:
            closed = end  # of several the last counts
    if not closed:
        raise EnvironmentProblem(
            f"{file}:{first + 1}: the block {_OPEN!r} is not closed: each line down to "
            f"{_CLOSE!r} should begin with '# '"
        )
    if opened[-1] > closed:
        raise EnvironmentProblem(
            f"{file}:{opened[-1] + 1}: a second block {_OPEN!r}; one is allowed"
        )
    return _Reader(file, first + 1, lines[first + 1 : closed]).block(lock)


class _Reader:
    """Judges the content of one block. `start` is the line of `# /// script`."""

    def __init__(self, file: str, start: int, content: list[str]) -> None:
        self._file = file
        self._start = start
        self._lines = [line[2:] for line in content]

    def block(self, lock: str) -> Block | None:
        try:
            fields = tomllib.loads("\n".join(self._lines))
        except tomllib.TOMLDecodeError as error:
            at = re.search(r"at line (\d+)", str(error))
            line = self._start + int(at[1]) if at else self._start
            raise EnvironmentProblem(f"{self._file}:{line}: not TOML: {error}") from error
        except RecursionError:
            raise self._problem("", "not TOML: it is nested too deeply") from None
        for name in fields:
            if name not in ALLOWED_FIELDS:
                known = ", ".join(sorted(ALLOWED_FIELDS))
                raise self._problem(name, f"unknown field {name!r}; there are {known}")
        exclude_newer = self._uv(fields.get("tool"))
        if find_spec("packaging") is None:
            raise self._problem("", f"packages of drivers need {SERVER_EXTRA}")
        self._check_python(fields.get("requires-python"))
        dependencies = tuple(self._dependencies(fields.get("dependencies", [])))
        if not dependencies:
            return None
        return Block(self._file, self._start, dependencies, exclude_newer, lock)

    def _uv(self, tool: object) -> str:
        uv = tool.get("uv", {}) if isinstance(tool, dict) else {}
        if not isinstance(uv, dict):
            raise self._problem("tool", "[tool.uv] should be a table")
        for name in uv:
            if name not in ALLOWED_OF_UV:
                raise self._problem(
                    name,
                    f"[tool.uv] {name} is not for a driver file to say: where packages come from "
                    "is configured by the administrator (PLACEOS_PACKAGES_…)",
                )
        newest = uv.get("exclude-newer", "")
        if not isinstance(newest, str):
            raise self._problem("exclude-newer", "exclude-newer should be a string, in quotes")
        return newest

    def _check_python(self, wanted: object) -> None:
        if wanted is None:
            return
        from packaging.specifiers import InvalidSpecifier, SpecifierSet

        try:
            fits = SpecifierSet(str(wanted)).contains(platform.python_version(), prereleases=True)
        except InvalidSpecifier as error:
            raise self._problem("requires-python", f"requires-python: {error}") from error
        if not fits:
            raise self._problem(
                "requires-python",
                f"requires Python {wanted}, but the platform runs {platform.python_version()}",
            )

    def _dependencies(self, listed: object) -> Iterator[Dependency]:
        if not isinstance(listed, list) or not all(isinstance(one, str) for one in listed):
            raise self._problem("dependencies", "dependencies should be a list of strings")
        from packaging.requirements import InvalidRequirement, Requirement

        for text in listed:
            try:
                requirement = Requirement(text)
            except InvalidRequirement as error:
                reason = str(error).splitlines()[0]
                raise self._problem(text, f"{text!r} is no dependency: {reason}") from error
            if requirement.url:
                raise self._problem(
                    text,
                    f"{requirement.name}: a dependency by address is not allowed; name a version "
                    "that the configured index has",
                )
            if normalised(text) == SDK:
                sdk = metadata.version(SDK)
                if not requirement.specifier.contains(sdk, prereleases=True):
                    raise self._problem(text, f"needs {text}, but the platform is {SDK} {sdk}")
                continue  # it is the base's
            yield Dependency(text, normalised(text), self._line(text))

    def _problem(self, word: str, reason: str) -> EnvironmentProblem:
        return EnvironmentProblem(f"{self._file}:{self._line(word)}: {reason}")

    def _line(self, word: str) -> int:
        """The line of the file on which a word of the block stands."""
        for spelled in (f'"{word}"', f"'{word}'", word):
            for number, line in enumerate(self._lines, 1):
                if spelled in line:
                    return self._start + number
        return self._start


def normalised(requirement: str) -> str:
    """The name in a requirement, as indexes compare it."""
    found = _NAME.match(requirement.strip())
    return re.sub(r"[-_.]+", "-", found[0]).lower() if found else ""


@cache
def constraints() -> list[str]:
    """What the SDK and the packages that it imports need of each other.

    Whoever installs packages before them on the path must keep to it, or the SDK breaks.
    """
    found: set[str] = set()
    seen = {SDK, *_NOT_IMPORTED}
    waiting = [SDK]
    while waiting:
        try:
            requirements = metadata.requires(waiting.pop()) or []
        except metadata.PackageNotFoundError:
            continue  # for another system, or another version of Python
        for requirement in requirements:
            name = normalised(requirement)
            if name in _NOT_IMPORTED or re.search(r"\bextra\s*==", requirement):
                continue
            found.add(_EXTRAS.sub("", requirement, count=1))
            if name not in seen:
                seen.add(name)
                waiting.append(name)
    return sorted(found)


def base_folders() -> list[str]:
    """Folders of packages in which the SDK and all of its base are found."""
    folders = site.getsitepackages()
    if site.getusersitepackages() in sys.path:
        folders.append(site.getusersitepackages())
    return [folder for folder in folders if Path(folder).is_dir()]


@cache
def base_identity() -> str:
    """Changes with all that makes an environment of today useless tomorrow."""
    return _digest(
        sys.version,
        sys.platform,
        platform.machine(),
        platform.libc_ver(),
        sys.base_prefix,
        metadata.version(SDK),
        base_folders(),
        constraints(),
    )


def _digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:20]


def _mentions(words: str, name: str) -> bool:
    """Whether a text names a package, as `name`, `name==1` or `name[extra]`."""
    spelled = "[-_.]+".join(re.escape(part) for part in name.split("-"))
    return re.search(rf"(?<![\w.-]){spelled}(?![\w-])", words, re.IGNORECASE) is not None
