"""Links over TLS: both sides show a certificate of the cluster's own authority."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Certificates:
    """What a process needs for it. `own` is its certificate (DER), for the channel binding.

    Names in certificates are not compared with addresses: the authority vouches for members of
    this one cluster and nobody else, and the handshake proves the identity beside it.
    """

    client: ssl.SSLContext
    server: ssl.SSLContext
    own: bytes


def load(certificate: Path, key: Path, authority: Path) -> Certificates:
    """Read the three PEM files. Raises OSError (also ssl.SSLError) or ValueError.

    The certificate's file starts with the own one; those in between may follow.
    """
    pem = certificate.read_text("ascii")
    end = "-----END CERTIFICATE-----"
    if end not in pem:
        raise ValueError(f"{certificate} holds no certificate")
    start = pem.index("-----BEGIN CERTIFICATE-----")
    own = ssl.PEM_cert_to_DER_cert(pem[start : pem.index(end, start) + len(end)] + "\n")
    contexts = []
    for side in (ssl.PROTOCOL_TLS_CLIENT, ssl.PROTOCOL_TLS_SERVER):
        context = ssl.SSLContext(side)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(authority)
        context.load_cert_chain(certificate, key)
        contexts.append(context)
    contexts[1].num_tickets = 0  # a link is never resumed
    return Certificates(client=contexts[0], server=contexts[1], own=own)
