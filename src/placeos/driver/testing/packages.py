"""The Python that runs a driver file outside of a platform: with the packages it asks for."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from placeos.driver.environment import Block, EnvironmentProblem, read


def cache() -> Path:
    """The folder for things that can be made again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "placeos"


def say_on_stderr(line: str) -> None:
    """Show progress."""
    print(line, file=sys.stderr, flush=True)


async def python_for(file: Path, say: Callable[[str], None] = say_on_stderr) -> str:
    """Our own Python if it has the file's packages (PEP 723), or that of an environment with them.

    The environment is built when it is first needed, with progress told to `say`, and kept in
    the user's cache. Raises EnvironmentProblem, which names file, line and package.
    """
    try:
        block = read(file)
    except OSError:  # whoever loads it says so
        block = None
    if block is None or has_all(block):
        return sys.executable
    try:
        from placeos.driver.environment_build import Packages, Store
    except ImportError as error:
        raise EnvironmentProblem(
            f"{file.name}: its packages cannot be installed: {error.name} is missing "
            "(pip install 'placeos[author]')"
        ) from error
    store = Store(cache() / "environments", Packages())
    environment = store.find(block) or await store.build(block, say)
    return str(environment.python)


def has_all(block: Block) -> bool:
    """Whether our own Python has what a file asks for, so that nothing needs to be built."""
    if block.lock:  # those versions and no others
        return False
    from packaging.requirements import Requirement

    for dependency in block.dependencies:
        wanted = Requirement(dependency.text)
        if wanted.marker is not None and not wanted.marker.evaluate():
            continue
        try:
            version = metadata.version(wanted.name)
        except metadata.PackageNotFoundError:
            return False
        if wanted.extras or not wanted.specifier.contains(version, prereleases=True):
            return False
    return True
