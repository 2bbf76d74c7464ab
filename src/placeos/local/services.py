"""The processes of a local platform besides its engines: what each is told at start."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import msgspec

from placeos.local import probe
from placeos.local.engines import Engines
from placeos.local.folder import Folder
from placeos.local.ports import Ports
from placeos.local.process import Kind, ProcessSpec

HOST = "127.0.0.1"
CORE_OPTIONS = (
    "PLACEOS_PACKAGES_",
    "PLACEOS_DRIVER_",
    "PLACEOS_GIT_",
    "PLACEOS_CLUSTER_",
    "PLACEOS_FAIL_",
)
"""Beginnings of variables that `placeos up` hands on to its cores as they are."""


class Addresses(msgspec.Struct, frozen=True):
    """Ports of the services, all on loopback."""

    api: int
    control: int
    auth: int
    cores: tuple[int, ...]


def choose_addresses(ports: Ports, cores: int) -> Addresses:
    """Free ports, the same as last time where they still are."""
    return Addresses(
        api=ports.take("api"),
        control=ports.take("control"),
        auth=ports.take("auth"),
        cores=tuple(ports.take(f"core-{number}") for number in range(1, cores + 1)),
    )


def service_specs(folder: Folder, engines: Engines, addresses: Addresses) -> list[ProcessSpec]:
    """Cores, api and auth."""
    return [
        *(
            _spec(
                f"core-{number}",
                "core",
                folder,
                engines,
                listen=port,
                questions=[partial(probe.tcp, HOST, port)],
                PLACEOS_STANDALONE="true" if len(addresses.cores) == 1 else "false",
            )
            for number, port in enumerate(addresses.cores, start=1)
        ),
        _spec(
            "api",
            "api",
            folder,
            engines,
            listen=addresses.api,
            control=addresses.control,
            questions=[
                partial(probe.http, f"http://{HOST}:{addresses.api}/api/engine/v2/"),
                partial(probe.tcp, HOST, addresses.control),
            ],
        ),
        _spec(
            "auth",
            "auth",
            folder,
            engines,
            listen=addresses.auth,
            questions=[partial(probe.http, f"http://{HOST}:{addresses.auth}/auth/authority")],
        ),
    ]


def environment(
    name: str, folder: Folder, engines: Engines, *, listen: int, control: int = 0
) -> dict[str, str]:
    """What a service reads at start (see `placeos.config`)."""
    return {
        "PLACEOS_DATA": str(folder.of(name)),
        "PLACEOS_SECRETS": str(folder.secrets),
        "PLACEOS_DATABASE_URL": engines.database_url,
        "PLACEOS_REDIS_URL": engines.redis_url,
        "PLACEOS_ETCD_ENDPOINTS": ",".join(engines.etcd_endpoints),
        "PLACEOS_LISTEN": f"{HOST}:{listen}",
        "PLACEOS_CONTROL_LISTEN": f"{HOST}:{control}",
        "PLACEOS_IDENTITY": name,
    }


def core_options(environ: Mapping[str, str]) -> dict[str, str]:
    """What the user has set for drivers and where they come from."""
    return {name: value for name, value in environ.items() if name.startswith(CORE_OPTIONS)}


def _spec(
    name: str,
    part: str,
    folder: Folder,
    engines: Engines,
    *,
    listen: int,
    control: int = 0,
    questions: Sequence[partial[probe.Answer]],
    **more: str,
) -> ProcessSpec:
    async def ready() -> bool:
        return all([await question() for question in questions])

    return ProcessSpec(
        name=name,
        kind=Kind.SERVICE,
        argv=(sys.executable, "-m", f"placeos.{part}"),
        env={
            **environment(name, folder, engines, listen=listen, control=control),
            **(core_options(os.environ) if part == "core" else {}),
            **more,
        },
        cwd=Path(folder.of(name)),
        ready=ready,
    )
