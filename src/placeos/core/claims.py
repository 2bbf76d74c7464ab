"""Whose a module's state is, and which keys of it another driver version left behind. Pure."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Final

from placeos.driver.state import Held

UNKNOWN: Final = "-"  # the version or life of a record that has none


def carried_number(number: int) -> int:
    """The number a batch carries for a module that was claimed under the view `number`.

    All writes go through here, so that a test can break the rule in one place.
    """
    return number


def number_of(record: bytes) -> int:
    """The view number in the text of `owner/<id>`; 0 when there is none."""
    text = record.partition(b" ")[0]
    return int(text) if text.isdigit() else 0


def version_of(record: bytes) -> str:
    """The driver version in the text of `owner/<id>`; UNKNOWN when there is none."""
    parts = record.split(b" ")
    return parts[1].decode("utf-8", "replace") if len(parts) > 1 else UNKNOWN


def writer_of(record: bytes) -> str:
    """The incarnation of the writer in the text of `owner/<id>`; empty when there is none."""
    parts = record.decode("utf-8", "replace").split(" ")
    return parts[2].partition(":")[0] if len(parts) > 2 and ":" in parts[2] else ""


@dataclass(slots=True, eq=False)
class Claim:
    """One module whose state this node writes: under which view, and what it is.

    A change carries the claim it was made under, so what was left over from an earlier
    ownership never passes for one of the present. `version` is that of the driver which set
    the state; while `unset` holds keys, it is still the one before.
    """

    module: str
    number: int
    version: str = UNKNOWN
    life: str = UNKNOWN
    held: Held = field(default_factory=Held)
    interface: bytes = b""
    known: int = -1  # memory is as of this view number; -1: what Redis holds was never read
    runs: str = UNKNOWN  # the version that runs now
    unset: set[str] = field(default_factory=set)
    standing: bool = False  # the record was written to Redis since this life began

    @property
    def carried(self) -> int:
        """The number that its writes carry."""
        return carried_number(self.number)

    @property
    def record(self) -> str:
        """The text of `owner/<id>`."""
        return f"{self.carried} {self.version} {self.life}"

    @property
    def outdated(self) -> bool:
        """Whether the state is another version's, in part or whole."""
        return self.runs not in (UNKNOWN, self.version)

    def wrote(self, record: bytes) -> bool:
        """Whether a record that Redis holds is this life's own, the version aside."""
        parts = record.decode("utf-8", "replace").split(" ")
        return parts[0] == str(self.carried) and parts[-1] == self.life

    def lost_to(self, record: bytes) -> bool:
        """Whether a record that Redis holds makes our writes refused."""
        theirs, ours = number_of(record), self.carried
        if theirs != ours or b":" not in record:
            return theirs > ours
        return writer_of(record) != self.life.partition(":")[0]

    def under(self, number: int) -> Claim:
        """The claim of a later view to the same module. What this one still has waiting goes on
        to carry the lower number; memory holds it as well."""
        return Claim(
            self.module,
            number,
            version=self.version,
            life=self.life,
            held=Held(self.held),
            interface=self.interface,
            known=self.known,
        )

    def begin(self, writer: str, version: str) -> None:
        """A new life of the module, in this driver version; `writer` is our incarnation."""
        self.life = f"{writer}:{secrets.token_hex(4)}"
        self.runs = version
        self.standing = False
        if self.known >= 0:
            self._compare(())

    def adopt(self, record: bytes, found: Mapping[bytes, bytes]) -> None:
        """It is claimed in Redis, which held this: take over what memory does not know better."""
        self.standing = True
        if 0 <= number_of(record) <= self.known:
            self.known = self.number
            return
        if self.known >= 0:  # another node wrote after memory was right
            self.held = Held()
        self.known = self.number
        before = version_of(record)
        self.version = before if before != UNKNOWN else self.runs
        mine = set(self.held)
        for key, value in found.items():
            name = key.decode("utf-8", "replace")
            if name not in mine:
                self.held.put(name, value)
        self._compare(mine)

    def settle(self) -> list[str]:
        """The new version had its time: the keys that it did not set, to be removed."""
        self.version = self.runs
        unset, self.unset = self.unset, set()
        return [key for key in unset if key in self.held]

    def _compare(self, mine: Collection[str]) -> None:
        """Which keys a version that differs has yet to set; `mine` it has set already."""
        if self.version == UNKNOWN:
            self.version = self.runs
        if self.outdated:
            self.unset = {key for key in self.held if key not in mine and key != "connected"}
        elif self.runs != UNKNOWN:
            self.unset = set()
