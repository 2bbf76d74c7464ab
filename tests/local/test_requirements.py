"""The pinned requirements: complete, by hash, and without an address to download from."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = {"base": [], "server": ["server"], "local": ["server", "local"]}
FILES["dev"] = ["server", "local", "dev"]
PINNED = re.compile(r"^([a-z0-9._-]+)(?:\[[a-z,]+\])?==\S+(?: ; .*)? \\$", re.MULTILINE)
NAME = re.compile(r"^[A-Za-z0-9._-]+")


def wanted(extras: list[str]) -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = list(project["dependencies"])
    for extra in extras:
        lines += project["optional-dependencies"][extra]
    names = {NAME.match(line)[0].lower().replace("_", "-") for line in lines}  # type: ignore[index]
    return names - {"placeos"}


@pytest.mark.parametrize("name", FILES)
def test_everything_wanted_is_pinned(name):
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    missing = wanted(FILES[name]) - set(PINNED.findall(text))
    assert not missing, "run: make lock"


@pytest.mark.parametrize("name", [*FILES, "setup"])
def test_every_pin_has_a_hash_and_no_address(name):
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    for block in re.split(r"\n(?=[a-z])", text.strip()):
        assert "--hash=sha256:" in block, block
    assert "://" not in text
    assert "index-url" not in text
