"""Networks for cores: a namespace for each, a bridge, and ways to cut them off. Needs root.

Everything a core talks to has an address of its own on the bridge, so that it can be cut off from
exactly one of them: by nftables, which drops both ways and in silence, or by a blackhole route,
which refuses to send while what comes is still heard.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

PLACES = {"api": 1, "devices": 2, "etcd": 11, "redis": 12, "postgres": 13}
FIRST_CORE = 20
WAYS = ("drop", "blackhole")

_DROP = """
table ip chaos {{
  chain in {{
    type filter hook input priority 0
    ip saddr {{ {some} }} drop
  }}
  chain out {{
    type filter hook output priority 0
    ip daddr {{ {some} }} drop
  }}
}}
"""


def possible() -> str:
    """Why there can be no namespaces here; nothing if there can."""
    if os.geteuid() != 0:
        return "not root"
    if shutil.which("ip") is None or shutil.which("nsenter") is None:
        return "no iproute2 or nsenter"
    name = f"chaos-try-{os.getpid()}"
    if subprocess.run(["ip", "netns", "add", name], capture_output=True).returncode:
        return "the kernel makes no network namespaces here"
    _run("ip", "netns", "del", name)
    return ""


def can(way: str) -> bool:
    """Whether there is what a way to cut needs."""
    return way != "drop" or shutil.which("nft") is not None


@dataclass(frozen=True)
class Namespace:
    """The network of one core."""

    name: str
    address: str

    @property
    def prefix(self) -> tuple[str, ...]:
        """What to put before a command that runs there. Only its network changes."""
        return (shutil.which("nsenter") or "nsenter", f"--net=/run/netns/{self.name}")

    def cut(self, addresses: Iterable[str], way: str = "drop") -> None:
        """No packet to or from these addresses any more."""
        if way == "drop":
            some = ", ".join(addresses)
            _run(
                *self.prefix,
                *("nft", "-f", "-"),
                text=_DROP.format(some=some),
            )
            return
        for address in addresses:
            _run("ip", "-n", self.name, "route", "add", "blackhole", f"{address}/32")

    def heal(self) -> None:
        """All is as it was."""
        if shutil.which("nft") is not None:
            _run(*self.prefix, "nft", "flush", "ruleset")
        _run("ip", "-n", self.name, "route", "flush", "type", "blackhole")


class Network:
    """One bridge with its namespaces. Made by `network`."""

    def __init__(self) -> None:
        self.tag = f"{os.getpid() % 0x10000:x}{random.randrange(256):02x}"
        self._net = f"10.{random.randrange(64, 128)}.{random.randrange(256)}"
        self.bridge = f"chb{self.tag}"
        self.members: list[Namespace] = []

    def address(self, place: str) -> str:
        """Of one of PLACES."""
        return f"{self._net}.{PLACES[place]}"

    def up(self) -> None:
        """The bridge, with the addresses of everything that is no core."""
        _run("ip", "link", "add", self.bridge, "type", "bridge")
        for place in PLACES:
            _run("ip", "addr", "add", f"{self.address(place)}/24", "dev", self.bridge)
        _run("ip", "link", "set", self.bridge, "up")

    def member(self) -> Namespace:
        """A namespace on the bridge."""
        number = len(self.members) + 1
        made = Namespace(f"ch{self.tag}n{number}", f"{self._net}.{FIRST_CORE + number}")
        here, there = f"cv{self.tag}{number}", "eth0"
        _run("ip", "netns", "add", made.name)
        self.members.append(made)
        _run("ip", "link", "add", here, "type", "veth", "peer", there, "netns", made.name)
        _run("ip", "link", "set", here, "master", self.bridge, "up")
        _run("ip", "-n", made.name, "addr", "add", f"{made.address}/24", "dev", there)
        for device in ("lo", there):
            _run("ip", "-n", made.name, "link", "set", device, "up")
        return made

    def down(self) -> None:
        """Leave nothing behind."""
        for member in self.members:
            subprocess.run(["ip", "netns", "del", member.name], check=False, capture_output=True)
        subprocess.run(["ip", "link", "del", self.bridge], check=False, capture_output=True)


@contextmanager
def network() -> Iterator[Network]:
    """A network while this lasts."""
    made = Network()
    try:
        made.up()
        yield made
    finally:
        made.down()


def _run(*words: str, text: str | None = None) -> None:
    done = subprocess.run(words, input=text, capture_output=True, text=True, timeout=20)
    if done.returncode != 0:
        raise OSError(f"{' '.join(words)}: {done.stderr.strip()}")
