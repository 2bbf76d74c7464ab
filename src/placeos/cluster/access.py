"""Where etcd is and how to be let in."""

from __future__ import annotations

import ssl
from pathlib import Path

import msgspec


class EtcdAccess(msgspec.Struct, frozen=True):
    """Addresses and credentials of an etcd cluster. Its text form shows no password."""

    endpoints: tuple[str, ...]
    """`http(s)://host:port` of the members."""
    ca: Path | None = None
    """PEM file of the authorities that may vouch for the members; None: the system's."""
    cert: Path | None = None
    """PEM file of the client's certificate."""
    key: Path | None = None
    """PEM file of the client's key; None: it is in `cert`."""
    user: str = ""
    """Empty: etcd asks for no password."""
    password: str = ""

    def __repr__(self) -> str:
        return f"EtcdAccess(endpoints={self.endpoints!r}, user={self.user!r})"

    def ssl_context(self) -> ssl.SSLContext | None:
        """For https endpoints; None when there is none. Raises OSError (SSLError is one)."""
        if not any(endpoint.startswith("https:") for endpoint in self.endpoints):
            return None
        context = ssl.create_default_context(cafile=self.ca)
        if self.cert is not None:
            context.load_cert_chain(self.cert, self.key)
        return context
