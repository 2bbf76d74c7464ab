"""What a section of the guide has its reader do, taken from its text.

A Python block after "Save this … as `name`" is a file; a block of `sh` is typed into a shell, and
one of `text` into the program that was started last. A shell block after "leave it running" is
not waited for; what comes after "A second later" may need that second.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

GUIDE = Path(__file__).parents[2] / "docs" / "writing-a-driver.md"
TUTORIAL = "From nothing to a tested driver in fifteen minutes"
BLOCK = re.compile(r"```(\w*)\n(.*?)```", re.DOTALL)
_FILE = re.compile(r"[Ss]ave\s+this(?:\s+\w+)?\s+as\s+`([\w.]+)`")


@dataclass
class File:
    """A file to be written."""

    name: str
    text: str


@dataclass
class Shell:
    """Lines for a shell, and what is typed into the program they start."""

    text: str
    stays: bool
    soon: bool
    typed: str = ""


def section(title: str) -> str:
    """The text of a section."""
    text = GUIDE.read_text(encoding="utf-8")
    assert f"\n## {title}\n" in text, f"{GUIDE.name} has no section {title!r}"
    return text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def steps(title: str = TUTORIAL) -> list[File | Shell]:
    """All steps of a section, in order."""
    found: list[File | Shell] = []
    text, end = section(title), 0
    for block in BLOCK.finditer(text):
        before, end = text[end : block.start()], block.end()
        language, content = block[1], block[2]
        if language == "python":
            name = _FILE.search(before)
            assert name, f"where is this saved?\n{content}"
            found.append(File(name[1], content))
        elif language == "sh":
            words = " ".join(before.split())
            found.append(Shell(content, "leave it running" in words, "second later" in words))
        else:
            shell = found[-1]
            assert language == "text"
            assert isinstance(shell, Shell)
            shell.typed = content
    return found


def python_block(title: str, words: str) -> str:
    """The Python block of a section that has these words."""
    found = [b[2] for b in BLOCK.finditer(section(title)) if b[1] == "python" and words in b[2]]
    assert len(found) == 1
    return found[0]
