"""TLS to devices, as a module's settings say (drivers.md 4.4).

A device's certificate is verified unless a setting says otherwise:

* `https_pin`: SHA-256 fingerprints of certificates, in hex; the device must show one of them,
  and neither its name nor who signed it matters.
* `https_ca_certificates`: PEM text of who may have signed it, instead of the public ones.
* `https_verify`: `none` (or 0) takes any certificate; `peer` (or 1) is the default.
* `https_client_cert` and `https_private_key`: PEM text of what the module shows of itself.
* `https_insecure`: also versions and ciphers that are broken, for old devices.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import re
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Annotated, Final, Literal

from msgspec import Meta

from placeos.driver.settings import Settings, SettingsReader
from placeos.driver.transports.base import Address

Verify = Literal["none", "peer", "fail_if_no_peer_cert", "client_once", "all"]
_PIN_LABEL: Final = re.compile(r"^\s*(sha-?256)(\s+fingerprint)?\s*[:=/]?", re.IGNORECASE)
_PIN_LENGTH: Final = 64  # hex digits of a SHA-256 digest


_OLD: Final = "an old device may need https_insecure: true"
BROKEN_OFF: Final = f"the device broke off the TLS handshake ({_OLD})"


class TlsSettings(Settings):
    """The settings, named as the platform has always named them."""

    https_verify: Verify | Annotated[int, Meta(ge=0, le=7)] | None = "peer"
    https_pin: str | list[str] | None = None
    https_ca_certificates: str | None = None
    https_client_cert: str | None = None
    https_private_key: str | None = None
    https_insecure: bool = False


class Mismatch(ssl.SSLCertVerificationError):
    """The device shows a certificate that is not the pinned one."""

    def __str__(self) -> str:
        return str(self.args[0])


@dataclass(frozen=True)
class _Terms:
    """What distinguishes one TLS context from another."""

    verify: bool
    ca: str
    certificate: str
    key: str
    pins: frozenset[bytes]
    insecure: bool


def context_of(address: Address) -> ssl.SSLContext:
    """The TLS context for a module's device; the same one for the same settings only.

    Raises ValueError or InvalidSettings naming the setting that cannot be used.
    """
    given = _reader().read(address.settings)
    assert isinstance(given, TlsSettings)
    certificate, key = given.https_client_cert, given.https_private_key
    if bool(certificate) != bool(key):
        raise ValueError("'https_client_cert' and 'https_private_key' go together; one is missing")
    return _context(
        _Terms(
            verify=given.https_verify not in ("none", 0),
            ca=given.https_ca_certificates or "",
            certificate=certificate or "",
            key=key or "",
            pins=pins_of(given.https_pin or ""),
            insecure=given.https_insecure,
        )
    )


@cache
def _reader() -> SettingsReader:
    return SettingsReader(TlsSettings)


def pins_of(value: str | list[str]) -> frozenset[bytes]:
    """The digests in a setting: one fingerprint or a list, with or without colons.
    Raises ValueError."""
    texts = re.split(r"[,;\n]", value) if isinstance(value, str) else value
    pins = set()
    for text in filter(str.strip, texts):
        digits = re.sub(r"[\s:]", "", _PIN_LABEL.sub("", text))
        if len(digits) != _PIN_LENGTH or not re.fullmatch(r"[0-9a-fA-F]*", digits):
            raise ValueError(
                "'https_pin': expected a SHA-256 fingerprint of 64 hex digits, "
                f"got {len(digits)} characters"
            )
        pins.add(bytes.fromhex(digits))
    return frozenset(pins)


def explain(error: BaseException) -> str:
    """What went wrong, and which setting helps if it was the device's certificate."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLError):
        cause = cause.__cause__ or cause.__context__
    if isinstance(cause, Mismatch):
        return str(cause)
    if isinstance(cause, ssl.SSLCertVerificationError):
        fault = cause.verify_message.rstrip(".") or str(cause)
        return (
            f"the device's certificate is refused: {fault}. If it is the right device, "
            "give its fingerprint as https_pin, or its authority as https_ca_certificates; "
            "https_verify: none would take any certificate"
        )
    if isinstance(cause, ssl.SSLError):
        return f"TLS failed: {_reason(cause)}"
    return str(error)


def _reason(error: ssl.SSLError) -> str:
    reason = error.reason or str(error)
    old = ("PROTOCOL", "CIPHER", "DH_KEY_TOO_SMALL", "LEGACY", "HANDSHAKE_FAILURE", "EE_KEY")
    if any(word in reason for word in old):
        return f"{reason} ({_OLD})"
    if "WRONG_VERSION_NUMBER" in reason:
        return f"{reason} (the device does not speak TLS on this port, or only an old version)"
    return reason


@lru_cache(maxsize=256)
def _context(terms: _Terms) -> ssl.SSLContext:
    if terms.pins:
        context: ssl.SSLContext = _Pinned(terms.pins)
    elif terms.verify:
        try:
            context = ssl.create_default_context(cadata=terms.ca or None)
        except (ssl.SSLError, ValueError) as error:
            raise ValueError(f"'https_ca_certificates': not PEM certificates: {error}") from error
    else:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if terms.pins or not terms.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    # OpenSSL 3 rejects what it considers malformed; devices are no browsers' peers
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if terms.insecure:
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.options |= getattr(ssl, "OP_LEGACY_SERVER_CONNECT", 0x4)
    if terms.certificate:
        _load(context, terms.certificate, terms.key)
    return context


def _load(context: ssl.SSLContext, certificate: str, key: str) -> None:
    def refuse() -> str:  # without it OpenSSL would ask at the terminal
        raise ValueError("'https_private_key': the key is protected by a password")

    with _file(certificate) as chain, _file(key) as own:
        try:
            context.load_cert_chain(chain, own, password=refuse)
        except ssl.SSLError as error:
            raise ValueError(
                "'https_client_cert' and 'https_private_key': not a PEM certificate with its "
                f"key: {error.reason or error}"
            ) from error


@contextlib.contextmanager
def _file(text: str) -> Iterator[str]:
    """A path to read `text` from, once, for OpenSSL takes nothing else: that of a pipe, so that
    no key comes to lie on a disk. (Files in memory are not for confined processes.)"""
    reader, writer = os.pipe()
    try:
        content = text.encode()
        try:
            os.set_blocking(writer, False)
            if os.write(writer, content) != len(content):  # 64 KiB fit
                raise ValueError("'https_client_cert' or 'https_private_key': it is too long")
        finally:
            os.close(writer)
        yield f"/dev/fd/{reader}"
    finally:
        os.close(reader)


class _Pinned(ssl.SSLContext):
    """Ends a handshake in which the device shows another certificate than a pinned one."""

    pins: frozenset[bytes]

    def __new__(cls, pins: frozenset[bytes]) -> _Pinned:
        made = super().__new__(cls, ssl.PROTOCOL_TLS_CLIENT)
        made.pins = pins
        made.sslobject_class = _PinnedObject
        made.sslsocket_class = _PinnedSocket
        return made


def _check(tls: ssl.SSLObject | ssl.SSLSocket) -> None:
    shown = hashlib.sha256(tls.getpeercert(binary_form=True) or b"").digest()
    pins: frozenset[bytes] = tls.context.pins  # type: ignore[attr-defined]
    if not any(hmac.compare_digest(shown, pin) for pin in pins):
        raise Mismatch(
            "the device's certificate is not the pinned one: its SHA-256 fingerprint is "
            f"{shown.hex(':')}; if it was replaced on purpose, give that as https_pin"
        )


class _PinnedObject(ssl.SSLObject):
    def do_handshake(self) -> None:
        """Raises Mismatch."""
        super().do_handshake()
        _check(self)


class _PinnedSocket(ssl.SSLSocket):
    def do_handshake(self, block: bool = False) -> None:
        """Raises Mismatch."""
        super().do_handshake(block)
        _check(self)
