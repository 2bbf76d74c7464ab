"""Who owns a module: rendezvous hashing, a pure function of the member list and an id.

Every process that knows the same members computes the same owner, and removing a member
moves only the modules it had. The algorithm, exactly, so that any language can repeat it:

1. ``h(text)`` is XXH3 with 64 bits and seed 0 over the UTF-8 bytes of the text.
2. The weight of a module on a member is ``mix(h(module id) XOR h(identity))`` where ``mix`` is
   the finaliser of SplitMix64 on unsigned 64-bit integers::

       z = (z XOR (z >> 30)) * 0xBF58476D1CE4E5B9
       z = (z XOR (z >> 27)) * 0x94D049BB133111EB
       z =  z XOR (z >> 31)

3. The owner is the eligible member with the greatest weight; of equal weights the identity
   that sorts last (by code point) wins. An exception (module → identity) goes before, as
   long as that identity is an eligible member.

Test vectors: ``h("mod-1")`` is 0x6DC8FAE705A82608, ``mix(1 XOR 2)`` is 0x1E535EEDE31428F0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import xxhash

Hashes = npt.NDArray[np.uint64]

_MASK = (1 << 64) - 1
_FIRST = 0xBF58476D1CE4E5B9
_SECOND = 0x94D049BB133111EB


def text_hash(text: str) -> int:
    """Step 1: XXH3-64 of the text."""
    return xxhash.xxh3_64_intdigest(text.encode())


def digest(content: bytes) -> int:
    """XXH3-64 of any bytes."""
    return xxhash.xxh3_64_intdigest(content)


def weight(module: int, member: int) -> int:
    """Step 2, from two hashes."""
    z = module ^ member
    z = ((z ^ (z >> 30)) * _FIRST) & _MASK
    z = ((z ^ (z >> 27)) * _SECOND) & _MASK
    return z ^ (z >> 31)


def owner(module_id: str, identities: Sequence[str]) -> str | None:
    """The owner among eligible identities; None when there are none."""
    module = text_hash(module_id)
    best: tuple[int, str] | None = None
    for identity in identities:
        candidate = (weight(module, text_hash(identity)), identity)
        if best is None or candidate > best:
            best = candidate
    return best[1] if best is not None else None


def hash_modules(module_ids: Sequence[str]) -> Hashes:
    """Hashes of many ids, to be kept: they never change."""
    digest = xxhash.xxh3_64_intdigest
    return np.fromiter((digest(one.encode()) for one in module_ids), np.uint64, len(module_ids))


def owners(modules: Hashes, identities: Sequence[str]) -> npt.NDArray[np.intp]:
    """For each hash the position of its owner in `identities` (at least one), vectorised."""
    if not identities:
        raise ValueError("no eligible member")
    # In descending order a strictly greater weight is needed to win: ties go to the last.
    order = sorted(range(len(identities)), key=lambda position: identities[position], reverse=True)
    best = np.zeros(len(modules), np.uint64)
    found = np.full(len(modules), order[0], np.intp)
    for turn, position in enumerate(order):
        weights = _mix(modules ^ np.uint64(text_hash(identities[position])))
        if turn == 0:
            best = weights
            continue
        better = weights > best
        best[better] = weights[better]
        found[better] = position
    return found


def _mix(z: Hashes) -> Hashes:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(_FIRST)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(_SECOND)
    return z ^ (z >> np.uint64(31))


def with_exceptions(
    module_id: str, identities: Sequence[str], exceptions: Mapping[str, str]
) -> str | None:
    """Step 3: an exception first, then the greatest weight."""
    wanted = exceptions.get(module_id)
    if wanted is not None and wanted in identities:
        return wanted
    return owner(module_id, identities)
