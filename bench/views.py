"""A new view of a large cluster: who owns what, and how much that moves.

`python bench/views.py`. The floor of the time is what numpy needs to look at as many pairs of
module and member once; of the moves, what any fair placement must move at least.
"""

from __future__ import annotations

import resource
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np

from placeos.cluster import ownership

SIZES = ((100_000, 50, 100.0), (1_000_000, 200, None))  # modules, members, budget in ms
ROUNDS = 5


def timed(action: Callable[[], object]) -> float:
    """Milliseconds of one call."""
    began = time.perf_counter()
    action()
    return (time.perf_counter() - began) * 1_000


def floor(modules: np.ndarray, members: int) -> None:
    """The least that must be done: one pass over all modules for every member."""
    best = np.zeros(len(modules), np.uint64)
    for member in range(members):
        np.maximum(best, modules ^ np.uint64(member), out=best)


def measure(count: int, members: int, budget: float | None) -> None:
    """One size: time, memory, and the share that moves on a join and a leave."""
    ids = [f"mod-{number:07}" for number in range(count)]
    identities = [f"core-{number}" for number in range(members)]
    hashing = timed(lambda: ownership.hash_modules(ids))
    hashes = ownership.hash_modules(ids)
    whole = statistics.median(
        timed(lambda: ownership.owners(hashes, identities)) for _ in range(ROUNDS)
    )
    least = statistics.median(timed(lambda: floor(hashes, members)) for _ in range(ROUNDS))
    before = ownership.owners(hashes, identities)
    joined = ownership.owners(hashes, [*identities, "core-new"])
    left = ownership.owners(hashes, identities[:-1])
    difference = timed(lambda: np.flatnonzero(before != joined))
    moved, gone = before != joined, before != left
    assert (joined[moved] == members).all(), "a module moved between two that stayed"
    assert (before[gone] == members - 1).all(), "a module moved between two that stayed"
    print(f"{count:,} modules, {members} members")
    print(f"  hashes, once for all                 {hashing:9.1f} ms")
    print(f"  all owners of a view                 {whole:9.1f} ms = {whole / least:.1f} × floor")
    print(f"  what differs from the view before    {difference:9.1f} ms")
    print(f"  moved by a join  {moved.mean():.4%}, least {1 / (members + 1):.4%}")
    print(f"  moved by a leave {gone.mean():.4%}, least {1 / members:.4%}")
    shares = np.bincount(before, minlength=members) * members / count
    print(f"  shares of the members: {shares.min():.2f} to {shares.max():.2f} of an equal one")
    if budget is not None:
        print(f"  budget {budget:g} ms: {'ok' if whole <= budget else 'MISSED'}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"  memory of the process at most        {peak:9.0f} MiB")


def main() -> None:
    """All sizes."""
    for count, members, budget in SIZES:
        measure(count, members, budget)
    sys.stdout.flush()


if __name__ == "__main__":
    main()
