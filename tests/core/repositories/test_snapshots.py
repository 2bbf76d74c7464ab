"""Copies of driver files under the hash of their content, and the folders they come from."""

from __future__ import annotations

import os
import time

import pytest

from placeos.core.files.listing import docstring, holds_driver, releases
from placeos.core.files.local_folder import LocalFolder, folder_hash, read_file
from placeos.core.files.repositories import folder_of
from placeos.core.files.snapshots import KEEP, store
from placeos.core.files.sources import MAX_FILE, RepositoryError, inside


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "a repository"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "driver.py").write_text("one")
    return folder


def test_one_content_is_one_version(tmp_path):
    first = store(b"one", None, "driver.py", tmp_path)
    assert store(b"one", None, "driver.py", tmp_path) == first
    second = store(b"two", None, "driver.py", tmp_path)
    assert second[0] != first[0]
    assert (first[1].read_text(), second[1].read_text()) == ("one", "two")


def test_a_lock_is_part_of_the_content(tmp_path):
    plain, _ = store(b"one", None, "driver.py", tmp_path)
    first, path = store(b"one", b"lock 1", "driver.py", tmp_path)
    second, _ = store(b"one", b"lock 2", "driver.py", tmp_path)
    assert len({plain, first, second}) == 3
    assert path.with_name("driver.py.lock").read_bytes() == b"lock 1"


@pytest.mark.parametrize("name", ["driver.py", "driver.py.lock"])
def test_a_copy_that_a_loss_of_power_left_empty_is_made_again(tmp_path, name):
    before = store(b"one", b"lock", "driver.py", tmp_path)
    before[1].with_name(name).write_bytes(b"")
    assert store(b"one", b"lock", "driver.py", tmp_path) == before
    assert before[1].read_bytes() == b"one"
    assert before[1].with_name("driver.py.lock").read_bytes() == b"lock"


def test_old_versions_go_unless_they_run(tmp_path):
    kept = store(b"kept", None, "driver.py", tmp_path)[1]
    for number in range(KEEP + 4):
        made = store(str(number).encode(), None, "driver.py", tmp_path, {kept.parent})[1]
        (made.parent / "__pycache__").mkdir()  # as Python leaves it
        (made.parent / "__pycache__" / "driver.pyc").touch()
        os.utime(made.parent, (number, number))
    assert kept.exists()
    assert len(list(tmp_path.iterdir())) == KEEP + 2


@pytest.mark.parametrize("name", ["../outside.py", "link.py", "missing.py", "sub", "a\0b.py"])
def test_what_is_refused(root, tmp_path, name):
    (tmp_path / "outside.py").write_text("secret")
    (root / "link.py").symlink_to(tmp_path / "outside.py")
    with pytest.raises(RepositoryError):
        read_file(root, name)


def test_a_file_that_is_too_large(root):
    (root / "large.py").write_bytes(b"#" * MAX_FILE)
    assert len(read_file(root, "large.py")[0]) == MAX_FILE
    (root / "large.py").write_bytes(b"#" * (MAX_FILE + 1))
    with pytest.raises(RepositoryError, match="larger than"):
        read_file(root, "large.py")


def test_the_hash_of_a_folder_follows_its_python_files(root):
    before = folder_hash(root)
    assert before[1] is None
    (root / "readme.txt").write_text("x")
    (root / "__pycache__").mkdir()
    (root / "__pycache__" / "x.py").write_text("x")
    assert folder_hash(root) == before
    (root / "new.py").write_text("x")
    assert folder_hash(root) != before
    with pytest.raises(RepositoryError):
        folder_hash(root / "nowhere")


def test_what_cannot_be_read_is_named(root):
    (root / "odd.py").mkdir()
    (root / "loop.py").symlink_to("loop.py")
    assert "loop.py: " in str(folder_hash(root)[1])


def test_what_is_no_file_is_not_waited_for(root):
    os.mkfifo(root / "pipe.py")
    assert "pipe.py: is not a file" in str(folder_hash(root)[1])
    with pytest.raises(RepositoryError, match="is not a file"):
        read_file(root, "pipe.py")


async def test_a_file_being_written_is_waited_for(root):
    folder = LocalFolder(root, root, lambda: None)
    path = root / "sub" / "driver.py"
    path.write_text("")
    began = time.monotonic()
    assert await folder.read("HEAD", "sub/driver.py") == b""  # it stays empty
    assert time.monotonic() - began >= 0.4
    os.utime(path, (1, 1))
    path.write_text("done")
    os.utime(path, (1, 1))
    began = time.monotonic()
    assert await folder.read("HEAD", "sub/driver.py") == b"done"


def test_which_places_are_folders(tmp_path, upstream):
    assert folder_of(tmp_path.as_uri()) == tmp_path
    assert folder_of(upstream.work.as_uri()) == upstream.work  # a working copy is a folder
    assert folder_of(upstream.uri) is None
    bare = upstream.bare.rename(upstream.bare.with_name("bare"))
    assert folder_of(bare.as_uri()) is None
    assert folder_of("https://host/x") is None
    assert folder_of("file:///nowhere/x.git") is None


@pytest.mark.parametrize("name", ["/etc/passwd", "../x", "a/../../x", "a\nb", "a\0b"])
def test_names_that_lead_outside(name):
    with pytest.raises(RepositoryError):
        inside("root", name)


def test_names_inside():
    assert inside("", "a/./b.py") == "a/b.py"
    assert inside("root/", "a.py") == "root/a.py"
    assert inside("", "") == ""


@pytest.mark.parametrize(
    ("name", "text", "is_one"),
    [
        ("a.py", "from placeos.driver import Driver\nclass A(Driver): ...\n", True),
        ("a.py", "from placeos.driver import (\n Driver)\nclass A(\n    Driver[X], B\n):\n", True),
        ("a.py", "from placeos import driver\nclass A(driver.Driver): ...\n", True),
        ("a.py", "from placeos.driver import Driver\n# class A(Driver)\n", False),
        ("a.py", "class A(Driver): ...\n", False),
        ("test_a.py", "from placeos.driver import Driver\nclass A(Driver): ...\n", False),
        (".hidden/a.py", "from placeos.driver import Driver\nclass A(Driver): ...\n", False),
        ("a.txt", "from placeos.driver import Driver\nclass A(Driver): ...\n", False),
    ],
)
def test_what_looks_like_a_driver(name, text, is_one):
    assert holds_driver(name, text.encode()) is is_one


def test_docstrings_are_found_without_parsing():
    assert (
        docstring(b'# /// script\n# ///\n"""Line.\n\nMore.\n"""\nimport x\n(((') == "Line.\n\nMore."
    )
    assert docstring(b"import x\n'no'") is None
    assert docstring(b"f'{x}'") is None
    assert docstring(b'"""never ends') is None
    assert docstring(b"\xff\xfe\0") is None


def test_a_docstring_after_a_byte_order_mark():
    assert docstring(b'\xef\xbb\xbf"""One."""\n') == "One."


def test_releases_are_versions_newest_first():
    tags = ["v1.2", "v1.10", "1.9.3", "v2.0.0-rc1", "nightly", "v1"]
    assert releases(tags) == ["v1.10", "1.9.3", "v1.2", "v1"]
