"""Copies of driver files, under the hash of their content: what runs never changes under it."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Container
from pathlib import Path
from typing import Final

from placeos.core.files.sources import RepositoryError

KEEP: Final = 5  # versions of each driver kept on disk besides those in use


def store(
    content: bytes, lock: bytes | None, name: str, folder: Path, in_use: Container[Path] = ()
) -> tuple[str, Path]:
    """Copy a driver's file under the hash of its content: hash and path of the copy.

    A lock of its packages is part of the content, and laid beside it as `<name>.lock`. Two edits
    of one file are two versions, and going back gives the first one again. Old copies that are
    not in use are removed. Raises RepositoryError when there is no room.
    """
    digest = hashlib.sha256(content)
    if lock is not None:
        digest.update(b"\0" + hashlib.sha256(lock).digest())
    key = digest.hexdigest()[:16]
    target = folder / key / name
    beside = target.with_name(f"{name}.lock")
    try:
        if _holds(target, content) and (lock is None or _holds(beside, lock)):
            os.utime(target.parent)  # the newest are kept
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            if lock is not None:
                beside.write_bytes(lock)
            partial = target.with_name(f".{name}.partial")
            partial.write_bytes(content)
            partial.replace(target)
            _forget_old(folder, target.parent, in_use)
    except OSError as error:
        raise RepositoryError(f"cannot copy {name} to {folder}: {error.strerror}") from error
    return key, target


def _holds(path: Path, content: bytes) -> bool:
    """Whether the copy is there and whole: one that a loss of power left may be empty."""
    try:
        return path.read_bytes() == content
    except FileNotFoundError:
        return False


def _forget_old(folder: Path, newest: Path, in_use: Container[Path]) -> None:
    """Remove all but the latest versions and those that run."""
    versions = sorted(
        (path for path in folder.iterdir() if path != newest and path not in in_use),
        key=lambda path: path.stat().st_mtime,
        reverse=True,
    )
    for old in versions[KEEP:]:
        shutil.rmtree(old, ignore_errors=True)  # with the bytecode beside it; or the next time
