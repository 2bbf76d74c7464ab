"""Copies of driver files under the hash of their content."""

from __future__ import annotations

import os

import pytest

from placeos.core.repositories import KEEP, RepositoryError, folder_hash, snapshot


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "a repository"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "driver.py").write_text("one")
    return folder


def test_one_content_is_one_version(root, tmp_path):
    store = tmp_path / "store"
    first = snapshot(root, "sub/driver.py", store)
    assert snapshot(root, "sub/driver.py", store) == first
    (root / "sub" / "driver.py").write_text("two")
    second = snapshot(root, "sub/driver.py", store)
    assert second[0] != first[0]
    assert (first[1].read_text(), second[1].read_text()) == ("one", "two")
    (root / "sub" / "driver.py").write_text("one")
    assert snapshot(root, "sub/driver.py", store) == first


def test_old_versions_go_unless_they_run(root, tmp_path):
    store = tmp_path / "store"
    kept = snapshot(root, "sub/driver.py", store)[1]
    for number in range(KEEP + 4):
        (root / "sub" / "driver.py").write_text(str(number))
        made = snapshot(root, "sub/driver.py", store, {kept.parent})[1]
        (made.parent / "__pycache__").mkdir()  # as Python leaves it
        (made.parent / "__pycache__" / "driver.pyc").touch()
        os.utime(made.parent, (number, number))
    assert kept.exists()
    assert len(list(store.iterdir())) == KEEP + 2


@pytest.mark.parametrize("name", ["../outside.py", "link.py", "missing.py", "sub", "a\0b.py"])
def test_what_is_refused(root, tmp_path, name):
    (tmp_path / "outside.py").write_text("secret")
    (root / "link.py").symlink_to(tmp_path / "outside.py")
    with pytest.raises(RepositoryError):
        snapshot(root, name, tmp_path / "store")


def test_the_hash_of_a_folder_follows_its_python_files(root):
    before = folder_hash(root)
    (root / "readme.txt").write_text("x")
    (root / "__pycache__").mkdir()
    (root / "__pycache__" / "x.py").write_text("x")
    assert folder_hash(root) == before
    (root / "new.py").write_text("x")
    assert folder_hash(root) != before
    with pytest.raises(RepositoryError):
        folder_hash(root / "nowhere")
