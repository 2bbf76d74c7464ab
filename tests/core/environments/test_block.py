"""What a driver file may ask for, and how it is told what is wrong."""

from __future__ import annotations

import json
import sys
import time
from importlib import metadata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from placeos.driver.environment import (
    Block,
    EnvironmentProblem,
    constraints,
    normalised,
    parse,
    read,
)


def block(*lines: str) -> Block | None:
    text = "".join(f"# {line}".rstrip() + "\n" for line in ("/// script", *lines, "///"))
    return parse("meter.py", f'"""A driver."""\n\n{text}\nimport acme\n')


def problem(*lines: str) -> str:
    with pytest.raises(EnvironmentProblem) as caught:
        block(*lines)
    return str(caught.value)


def test_a_file_without_a_block_asks_for_nothing(tmp_path: Path):
    path = tmp_path / "plain.py"
    path.write_text("import os\n# script\n")
    assert read(path) is None
    assert block("requires-python = '>=3.11'") is None
    assert block("dependencies = []") is None
    assert block("dependencies = ['placeos']") is None, "the SDK is there already"


def test_dependencies_with_their_lines():
    found = block(
        'requires-python = ">=3.11"', "dependencies = [", "  'Acme_Proto<2',", '  "b"', "]"
    )
    assert found is not None
    assert [(one.text, one.name, one.line) for one in found.dependencies] == [
        ("Acme_Proto<2", "acme-proto", 6),
        ("b", "b", 7),
    ]
    assert found.line == 3


def test_windows_line_ends(tmp_path: Path):
    path = tmp_path / "a.py"
    path.write_bytes(b"# /// script\r\n# dependencies = ['a']\r\n# ///\r\n")
    assert read(path).dependencies[0].name == "a"


def test_a_byte_order_mark(tmp_path: Path):
    file = tmp_path / "driver.py"
    file.write_bytes(b'\xef\xbb\xbf# /// script\n# dependencies = ["six"]\n# ///\n')
    block = read(file)
    assert block is not None
    assert [(one.name, one.line) for one in block.dependencies] == [("six", 2)]


def test_a_lock_beside_the_file_counts(tmp_path: Path):
    path = tmp_path / "a.py"
    path.write_text("# /// script\n# dependencies = ['a']\n# ///\n")
    before = read(path)
    (tmp_path / "a.py.lock").write_text("version = 1\n")
    after = read(path)
    assert after.lock == "version = 1\n"
    assert after.digest != before.digest


def test_the_order_of_wishes_does_not_matter_for_what_is_remembered():
    one, two = block("dependencies = ['a', 'b>1']"), block("dependencies = [", "'b>1', 'a']")
    other = block("dependencies = ['a', 'b>2']")
    assert one.digest == two.digest != other.digest


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["dependencies = [", "a]"], "meter.py:5: not TOML"),
        (["dependencies = ['a'"], "meter.py:3: not TOML"),
        (["dependencys = ['a']"], "meter.py:4: unknown field 'dependencys'"),
        (["requires-python = '>=3.11'", "dependencies = 'a'"], "meter.py:5: dependencies should"),
        (["dependencies = [", "'b', ", "'a=>1']"], "meter.py:6: 'a=>1' is no dependency"),
        (["dependencies = ['a @ https://evil.example/a.whl']"], "by address is not allowed"),
        (["dependencies = ['placeos>=99']"], "needs placeos>=99, but the platform is placeos "),
        (["requires-python = '>=3.99'"], "meter.py:4: requires Python >=3.99, but the platform"),
        (["requires-python = 'new'"], "meter.py:4: requires-python: Invalid"),
        (
            ["dependencies = ['a']", "[[tool.uv.index]]", "url = 'https://evil.example'"],
            "[tool.uv] index is not for a driver file to say",
        ),
        (["[tool.uv]", "no-build = false"], "meter.py:5: [tool.uv] no-build is not for"),
        (["[tool.uv]", "exclude-newer = 2026-01-01"], "exclude-newer should be a string"),
        (["[tool]", "uv = 3"], "should be a table"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(lines, expected):
    assert expected in problem(*lines)


def test_a_block_must_be_closed_and_be_the_only_one():
    with pytest.raises(EnvironmentProblem, match=r"^a\.py:2: the block .* is not closed"):
        parse("a.py", "import os\n# /// script\n# dependencies = ['a']\nimport a\n")
    once = "# /// script\n# dependencies = ['a']\n# ///\n"
    with pytest.raises(EnvironmentProblem, match=r"^a\.py:5: a second block"):
        parse("a.py", once + "\n" + once)


def test_other_tools_are_left_alone():
    assert block("dependencies = ['a']", "[tool.black]", "line-length = 1") is not None


def test_the_script_that_is_locked_says_nothing_but_packages():
    found = block("dependencies = ['a']", "[tool.uv]", "exclude-newer='2026-01-01'")
    script = found.script()
    again = [line for line in script.splitlines() if not line.startswith("# ")]
    assert again == [], "every line is a comment"
    assert "msgspec" in script
    assert "exclude-newer" in script
    assert "placeos ;" in script


def test_constraints_are_those_of_what_a_driver_process_imports():
    names = {normalised(one) for one in constraints()}
    assert {"msgspec", "httpx", "httpcore"} <= names
    assert not {"typer", "rich", "pydantic"} & names


def test_a_conflict_with_the_sdk_names_both():
    found = block("dependencies = ['a', 'needs-old']")
    text = found.explain(
        "error: Because needs-old depends on msgspec<0.1 and you require needs-old"
    )
    needed = next(one for one in metadata.requires("placeos") if one.startswith("msgspec"))
    assert text.startswith("meter.py:4: 'needs-old': Because needs-old depends on msgspec<0.1")
    assert f"SDK needs {needed}" in text


def test_names_are_not_found_in_other_names():
    found = block("dependencies = [", "'acme',", "'acme-tools']")
    assert found.explain("no version of acme_tools==3").startswith("meter.py:6: ")
    assert found.explain("acme[x]==3 was not found").startswith("meter.py:5: ")
    assert found.explain("the disk is full").startswith("meter.py:3: the disk")


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text):
    try:
        found = parse("a.py", f"# /// script\n{text}\n# ///\n")
    except EnvironmentProblem as error:
        assert str(error).startswith("a.py:")  # noqa: PT017
    else:
        assert found is None or found.dependencies


@given(st.lists(st.text(max_size=30), max_size=4))
def test_any_dependency_is_read_or_refused(dependencies):
    try:
        found = block("dependencies = " + json.dumps(dependencies))
    except EnvironmentProblem as error:
        assert str(error).startswith("meter.py:")  # noqa: PT017
    else:
        assert found is None or len(found.dependencies) <= len(dependencies)


def test_a_file_made_to_be_slow_is_not():
    began = time.monotonic()
    for text in (
        "# /// script\n" * 300_000,
        "# /// script\n# x = " + "[" * 1_000_000 + "\n# ///\n",
    ):
        with pytest.raises(EnvironmentProblem):
            parse("a.py", text)
    assert time.monotonic() - began < 30


@given(st.lists(st.text(st.characters(exclude_categories=["C"]), max_size=30), max_size=6))
def test_any_toml_is_read_or_refused(lines):
    try:
        block(*lines)
    except EnvironmentProblem as error:
        assert str(error).startswith("meter.py:")  # noqa: PT017


def test_this_python_fits_itself():
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert block(f"requires-python = '>={version}'", "dependencies = ['a']") is not None
