"""Keys on SSH: the one a module logs in with, and those its device is known by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import asyncssh

from placeos.driver.errors import DriverError
from placeos.driver.transports.ssh import ANY_KEY, SshLogin

PRINT: Final = "SHA256:"
WRONG_PIN: Final = (
    "setting 'ssh.host_key': expected SHA256:… or a public key such as ssh-ed25519 AAAA…, "
    f"a list of those, or '{ANY_KEY}'"
)


@dataclass(frozen=True)
class Known:
    """The keys of which a device must show one; any will do where there are none.

    `algorithms` are those of the keys, as far as they are known: a device that has several
    keys is asked for these first.
    """

    fingerprints: frozenset[str] = frozenset()
    algorithms: tuple[str, ...] = ()
    pinned: bool = False  # by the setting, else as the device showed before

    def has(self, fingerprint: str) -> bool:
        """Whether the device that shows this key is the right one."""
        return not self.fingerprints or fingerprint in self.fingerprints

    def refusal(self, fingerprint: str) -> str:
        """What to say of a device that shows another key."""
        remedy = f"if that is on purpose, give ssh.host_key: {fingerprint}"
        if self.pinned:
            return f"the device's key {fingerprint} is not the one of ssh.host_key; {remedy}"
        before = " or ".join(sorted(self.fingerprints))
        return f"the device shows the key {fingerprint} and before {before}; {remedy}"


def known_of(login: SshLogin, address: str, remembered: object) -> Known:
    """By what the device at `address` is known: the setting, else what was `remembered` of it.

    Raises DriverError for a setting that is no key.
    """
    given = [login.host_key] if isinstance(login.host_key, str) else login.host_key or []
    lines = [line.strip() for text in given for line in text.splitlines() if line.strip()]
    if lines == [ANY_KEY]:
        return Known(pinned=True)
    if not lines and isinstance(remembered, Mapping) and remembered.get("address") == address:
        return _known([str(remembered.get("key"))], pinned=False)
    return _known(lines, pinned=bool(lines))


def _known(lines: list[str], *, pinned: bool) -> Known:
    prints, algorithms = set(), []
    for line in lines:
        if line.startswith(PRINT):
            prints.add(line.rstrip("="))
            continue
        try:
            key = asyncssh.import_public_key(line)
        except (asyncssh.KeyImportError, ValueError):
            raise DriverError(WRONG_PIN) from None
        prints.add(key.get_fingerprint("sha256"))
        algorithms += [name.decode() for name in key.sig_algorithms]
    return Known(frozenset(prints), tuple(algorithms), pinned)


def identity(key: asyncssh.SSHKey, address: str) -> dict[str, str]:
    """What to remember of the device at `address`."""
    public = key.export_public_key().decode().split()[:2]  # without the comment
    return {
        "address": address,
        "fingerprint": key.get_fingerprint("sha256"),
        "key": " ".join(public),
    }


def private_key(login: SshLogin) -> asyncssh.SSHKey | None:
    """The key to log in with, if there is one. Raises DriverError."""
    if not login.private_key:
        return None
    try:
        return asyncssh.import_private_key(login.private_key.strip() + "\n", login.passphrase)
    except asyncssh.KeyEncryptionError:
        raise DriverError("setting 'ssh.passphrase' does not open the private key") from None
    except (asyncssh.KeyImportError, ValueError) as error:
        if login.passphrase is None and "passphrase" in str(error).lower():
            raise DriverError("setting 'ssh.passphrase' is missing") from None
        raise DriverError(f"setting 'ssh.private_key' is not usable: {error}") from None
