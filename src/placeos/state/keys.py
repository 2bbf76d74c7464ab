"""Names of keys and channels in Redis. They are public contract: other tools read them."""

from __future__ import annotations

from typing import Final

LOOKUP_CHANGE: Final = "lookup-change"
"""Channel that carries the id of a system whose lookup table was rewritten."""


def status(module_id: str) -> str:
    """Hash of a module's (or trigger instance's) live values: key → JSON text."""
    return f"status/{module_id}"


def status_channel(module_id: str, key: str) -> str:
    """Channel of one live value: its JSON text at each change, `null` when removed."""
    return f"status/{module_id}/{key}"


def system(system_id: str) -> str:
    """Hash of a system's lookup table: `<name>/<index>` → module id."""
    return f"system/{system_id}"


def interface(module_id: str) -> str:
    """String with a module's interface metadata as JSON."""
    return f"interface/{module_id}"


def channel(path: str) -> str:
    """Channel of free text that drivers publish and monitor."""
    return f"placeos/{path}"


def position(name: str, index: int) -> str:
    """Field of a lookup table, e.g. `Display/1`."""
    return f"{name}/{index}"


def owner(record_id: str) -> str:
    """String that fences the writers of a module's state or of a system's table.

    `<view number> <driver version> <incarnation>:<mark>`: the highest view number of a writer
    so far, the version of the driver that set the state, the core that wrote last and a mark of
    the module's life in it. Of a system only the number. A lower number is refused.
    """
    return f"owner/{record_id}"


def leader(duty: str) -> str:
    """String that fences the writes of a leader: `<revision of its election> <identity>`."""
    return f"leader/{duty}"
