"""Identifiers of records: `<table>-<postfix>`, sortable by the second they were made."""

from __future__ import annotations

import secrets
import time

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-_~"
EPOCH = 1_388_534_400  # 2014-01-01T00:00:00Z
_RANDOM_BITS = 30


def new_id(table: str) -> str:
    """A new identifier, for instance `sys-4HxHpgvT-D`. The postfix may contain `-`, `_`, `~`."""
    number = (int(time.time()) - EPOCH) << _RANDOM_BITS | secrets.randbits(_RANDOM_BITS)
    return f"{table}-{encode(number)}"


def encode(number: int) -> str:
    """Digits of a non-negative number in base 65, the most significant first."""
    digits = ""
    while True:
        number, digit = divmod(number, len(ALPHABET))
        digits = ALPHABET[digit] + digits
        if not number:
            return digits
