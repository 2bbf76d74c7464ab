"""The front door as a process: Caddy with the configuration that `placeos.ingress` generates."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from placeos.ingress import caddy_config
from placeos.local import probe
from placeos.local.engines import caddy_program
from placeos.local.folder import Folder
from placeos.local.process import Kind, ProcessSpec
from placeos.local.secrets import write_private
from placeos.local.services import HOST, Addresses


def ingress_spec(
    folder: Folder, addresses: Addresses, *, port: int, hosts: Sequence[str]
) -> ProcessSpec:
    """Write the configuration; the process that serves it."""
    file = folder.ingress / "caddy.json"
    write_private(
        file,
        caddy_config(
            listen_port=port,
            hosts=hosts,
            api=f"{HOST}:{addresses.api}",
            control=f"{HOST}:{addresses.control}",
            auth=f"{HOST}:{addresses.auth}",
            storage=folder.ingress,
        ),
    )

    async def ready() -> bool:
        return await probe.http(f"http://{HOST}:{port}/healthz")

    return ProcessSpec(
        name="ingress",
        kind=Kind.INGRESS,
        argv=(str(caddy_program()), "run", "--config", str(file)),
        env=dict.fromkeys(("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"), str(folder.ingress)),
        cwd=folder.ingress,
        ready=ready,
    )


def authority_certificate(folder: Folder) -> Path:
    """What browsers elsewhere must trust to accept the door's certificates."""
    return folder.ingress / "pki" / "authorities" / "local" / "root.crt"
