"""What one types at the prompt of `placeos driver run`. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

_NAME: Final = re.compile(r"(\w+)=")
OF_EVERY_MODULE: Final = ("persistent_log_level",)
_CLOSES: Final = {"[": "]", "{": "}"}


class WrongWords(Exception):
    """What was typed cannot be understood."""


def words(text: str) -> list[str]:
    """The words of a line; a list, an object or a text in quotes is one, spaces and all.

    Raises WrongWords for what is not closed.
    """
    found: list[str] = []
    at = 0
    while at < len(text):
        if text[at].isspace():
            at += 1
            continue
        end = _end(text, at)
        found.append(text[at:end])
        at = end
    return found


def _end(text: str, start: int) -> int:
    """Where the word that begins at `start` ends."""
    closing: list[str] = []
    quoted = False
    at = start
    while at < len(text):
        char = text[at]
        if quoted:
            at += char == "\\"
            quoted = char != '"'
        elif char == '"':
            quoted = True
        elif char in _CLOSES:
            closing.append(_CLOSES[char])
        elif closing and char == closing[-1]:
            closing.pop()
        elif char.isspace() and not closing:
            return at
        at += 1
    if quoted or closing:
        what = '"' if quoted else closing[-1]
        raise WrongWords(f"{text[start:]}: there is no closing {what}")
    return len(text)


def value(word: str) -> Any:
    """JSON if it is JSON (`true`, `5`, `[1, 2]`, `"5"`), else the text itself."""
    try:
        return msgspec.json.decode(word)
    except (msgspec.DecodeError, UnicodeError):
        return word


def arguments(given: Sequence[str], names: Sequence[str]) -> list[Any] | dict[str, Any]:
    """The arguments of a call: `true 5`, or `state=true index=5`, or both in that order.

    `names` are those the function has. Raises WrongWords.
    """
    positional: list[Any] = []
    named: dict[str, Any] = {}
    for word in given:
        found = _NAME.match(word)
        if found and found[1] in names:
            named[found[1]] = value(word[found.end() :])
        elif named:
            raise WrongWords(f"{word}: arguments without a name come first")
        else:
            positional.append(value(word))
    if not named:
        return positional
    if len(positional) > len(names):
        raise WrongWords(f"there are only {len(names)} arguments")
    return dict(zip(names, positional, strict=False)) | named


class Word(str):
    """The value of a setting as it was typed, before it is known what it should be."""

    __slots__ = ()


def setting(text: str, schema: Mapping[str, Any]) -> tuple[str, Any]:
    """`name=value` of a setting; a setting that is a text stays one. Raises WrongWords."""
    name, equals, word = text.partition("=")
    name = name.strip()
    if not equals or not name:
        raise WrongWords(f"{text}: expected name=value")
    return name, typed(word, schema.get("properties", {}).get(name, {}))


def typed(word: str, schema: Mapping[str, Any]) -> Any:
    """The value of a setting with that schema."""
    word = str(word)  # a Word is no JSON text
    if schema.get("type") == "string" and not (word.startswith('"') and word.endswith('"')):
        return word
    return value(word)


def undeclared(names: Iterable[str], schema: Mapping[str, Any]) -> list[str]:
    """Those that are no setting of that schema, nor of every module: mistyped, maybe."""
    known = {*schema.get("properties", {}), *OF_EVERY_MODULE}
    return [name for name in names if name not in known]


_SECRET: Final = re.compile(r"passw|passphrase|secret|token|private_key|api_?key", re.IGNORECASE)


def is_secret(name: str, schema: Mapping[str, Any]) -> bool:
    """Whether the value of a setting must not be shown: it is marked so, or sounds like it."""
    return _marked(schema.get("properties", {}).get(name, {})) or bool(_SECRET.search(name))


def _marked(details: Mapping[str, Any]) -> bool:
    """Also if it is one of several types, or what a list or an object holds."""
    inside = [*details.get("anyOf", ()), details.get("items"), details.get("additionalProperties")]
    return (
        details.get("format") == "password"
        or details.get("writeOnly") is True
        or any(_marked(one) for one in inside if isinstance(one, dict))
    )


def shown(settings: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with their secrets taken out."""
    return {name: _shown(name, content, schema) for name, content in settings.items()}


def _shown(name: str, content: Any, schema: Mapping[str, Any]) -> Any:
    if is_secret(name, schema) and content not in (None, ""):
        return "•••"
    if isinstance(content, dict):
        inner = schema.get("properties", {}).get(name, {})
        return {key: _shown(key, part, inner) for key, part in content.items()}
    if isinstance(content, list):
        return [_shown(name, part, schema) for part in content]
    return content
