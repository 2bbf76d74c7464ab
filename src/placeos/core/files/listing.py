"""What can be told of a driver file by its text alone.

Only text is looked at: a file is neither run nor parsed here, since both can bring down the
process that does it.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from pathlib import PurePosixPath
from typing import Final

MAX_DOC: Final = 100_000  # characters of a file in which its docstring is looked for
IMPORTS: Final = "^[ \t]*(from|import)[ \t]+placeos([.]driver|[ \t]+import[ \t]+.*driver)"
"""Of the SDK: an extended regular expression, for Python and for git."""
_IMPORTS: Final = re.compile(IMPORTS.encode(), re.MULTILINE)
_CLASS: Final = re.compile(rb"^class[ \t]+\w+[ \t]*\([^)]{0,2000}\bDriver\b", re.MULTILINE)
_VERSION: Final = re.compile(r"v?(\d{1,9}(?:\.\d{1,9}){0,5})")


def may_hold_driver(name: str) -> bool:
    """Whether a file of this name can be a driver: no test, nothing hidden."""
    parts = PurePosixPath(name).parts
    file = parts[-1]
    return (
        file.endswith(".py")
        and not file.startswith(("test_", "conftest."))
        and not file.endswith("_test.py")
        and not any(part.startswith(".") or part == "__pycache__" for part in parts)
    )


def holds_driver(name: str, content: bytes) -> bool:
    """Whether a file looks like a driver: it imports the SDK and derives a class from Driver."""
    return (
        may_hold_driver(name)
        and _IMPORTS.search(content) is not None
        and _CLASS.search(content) is not None
    )


def readme_name(file: str) -> str:
    """`acme/projector.py` → `acme/projector_readme.md`."""
    return f"{file.removesuffix('.py')}_readme.md"


def docstring(content: bytes) -> str | None:
    """The docstring of a Python file; None when it has none or cannot be read so far."""
    text = content.decode("utf-8-sig", "replace")[:MAX_DOC]
    ignored = (tokenize.COMMENT, tokenize.NL, tokenize.ENCODING, tokenize.NEWLINE)
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.STRING:
                value = ast.literal_eval(token.string)
                return value.strip() if isinstance(value, str) else None
            if token.type not in ignored:
                return None
    except (tokenize.TokenError, SyntaxError, ValueError):
        return None
    return None


def releases(tags: list[str]) -> list[str]:
    """Tags that are plain version numbers (`v1.2`, `1.2.3`), the newest first."""
    found = [(tag, match) for tag in tags if (match := _VERSION.fullmatch(tag)) is not None]

    def number(one: tuple[str, re.Match[str]]) -> tuple[int, ...]:
        return tuple(int(part) for part in one[1][1].split("."))

    return [tag for tag, _ in sorted(found, key=number, reverse=True)]
