"""What a driver process leaves behind is removed, whatever it made of its folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from placeos.core.process.isolation import Isolation, remove
from placeos.core.process.limits import Limits


def deepen(folder: Path, levels: int) -> None:
    """Folders in folders, too deep for any path."""
    here = Path.cwd()
    os.chdir(folder)
    try:
        for _ in range(levels):
            os.mkdir("d" * 200)  # noqa: PTH102 - there is no path
            os.chdir("d" * 200)
            Path("file").write_text("x")
    finally:
        os.chdir(here)


@pytest.fixture
def folder(tmp_path):
    """A folder with much in it, beside a file that stays."""
    found = tmp_path / "work" / "cell"
    found.mkdir(parents=True)
    (tmp_path / "stays").mkdir()
    (tmp_path / "stays" / "file").write_text("kept")
    deepen(found, 3_000)
    (found / "link").symlink_to(tmp_path / "stays")
    (found / "loop").symlink_to(found)
    (found / "a" / "b" / "c").mkdir(parents=True)
    (found / "a" / "b").chmod(0)
    (found / "a").chmod(0)
    yield found
    assert (tmp_path / "stays" / "file").read_text() == "kept"


def test_all_of_it_is_removed(folder):
    remove(folder)
    assert not folder.exists()
    remove(folder)


def test_a_core_starts_whatever_the_last_one_could_not_remove(folder):
    work = folder.parent
    Isolation(Limits(), work, hidden=[]).open()
    assert list(work.iterdir()) == []


def test_a_link_in_place_of_the_folder_is_not_followed(tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("kept")
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "other")
    remove(link)
    assert (tmp_path / "other" / "file").exists()
