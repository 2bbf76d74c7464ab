"""Texts that clients send: HTML removed or sanitised, and the formats fields ask for."""

from __future__ import annotations

import html
import ipaddress
import re
from urllib.parse import urlsplit
from zoneinfo import available_timezones

import nh3

EMAIL = re.compile(
    r"[^\s@<>\"',;:()\[\]\\]+@[^\s@<>\"',;:()\[\]\\.]+(?:\.[^\s@<>\"',;:()\[\]\\.]+)*"
)
_LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")


def plain(text: str) -> str:
    """The text without HTML. Harmless `<` and `&` stay readable, nothing stays a tag."""
    while "<" in text or "&" in text:
        cleaned = html.unescape(nh3.clean(text, tags=set()))
        if cleaned == text:
            break
        text = cleaned
    return text


def safe_html(text: str) -> str:
    """The text with a safe subset of HTML."""
    return nh3.clean(text) if "<" in text or "&" in text else text


def is_email(text: str) -> bool:
    """Whether a text has the form of an e-mail address."""
    return len(text) <= 254 and EMAIL.fullmatch(text) is not None


def is_host(text: str) -> bool:
    """Whether a text is an IPv4 or IPv6 address or a host name."""
    if not text or len(text) > 253:
        return False
    try:
        ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        return all(_LABEL.fullmatch(label) for label in text.removesuffix(".").split("."))
    return True


def is_uri(text: str) -> bool:
    """Whether a text is a URI with scheme and host."""
    try:
        parts = urlsplit(text)
        _ = parts.port  # raises when it is no number
    except ValueError:
        return False
    return bool(parts.scheme and parts.hostname) and not any(c.isspace() for c in text)


def is_timezone(text: str) -> bool:
    """Whether a text names an IANA time zone."""
    return text in available_timezones()
