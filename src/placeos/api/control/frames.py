"""Text messages as bytes on the wire. Pure."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

_SHORT_HEADS: Final = tuple(bytes((0x81, size)) for size in range(126))
_pack_medium: Final = struct.Struct(">BBH").pack
_pack_long: Final = struct.Struct(">BBQ").pack


def frames(messages: Sequence[bytes]) -> bytes:
    """Text messages as frames, unmasked as servers send them (RFC 6455, 5.2)."""
    parts: list[bytes] = []
    for message in messages:
        size = len(message)
        if size < 126:
            parts.append(_SHORT_HEADS[size])
        elif size < 65_536:
            parts.append(_pack_medium(0x81, 126, size))
        else:
            parts.append(_pack_long(0x81, 127, size))
        parts.append(message)
    return b"".join(parts)
