"""The command line that all simulators share."""

from __future__ import annotations

import argparse
from pathlib import Path

from placeos.local.demo.device import Options


def device_arguments(description: str, *, port: int, idle: float) -> argparse.ArgumentParser:
    """A parser with the common options; `port` and `idle` (seconds) are their defaults."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--port", type=int, default=port)
    parser.add_argument("--control-port", type=int, default=0, help="where harm is asked for")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--log", type=Path, help="journal of connections and commands")
    parser.add_argument(
        "--idle", type=float, default=idle, metavar="SECONDS", help="close a silent connection"
    )
    parser.add_argument(
        "--drop-every", type=float, default=0, metavar="SECONDS", help="drop one now and then"
    )
    parser.add_argument("--seed", type=int, help="makes what is random repeatable")
    return parser


def device_options(given: argparse.Namespace) -> Options:
    """The common options as given."""
    return Options(
        port=given.port,
        control_port=given.control_port,
        host=given.host,
        journal=given.log,
        idle=given.idle,
        drop_every=given.drop_every,
        seed=given.seed,
    )
