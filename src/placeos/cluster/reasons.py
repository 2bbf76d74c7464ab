"""Why a view is not completed, in words for an operator. Pure."""

from __future__ import annotations

from placeos.cluster.handover import Memory, Seen, Timing, keeps_promises, vouched


def waiting_for(memory: Memory, seen: Seen, now: float, timing: Timing) -> tuple[str, ...]:
    """Why the newest view is not completed yet, in words for an operator."""
    view = memory.view
    if memory.amiss is not None or view is None:
        return ("etcd holds no view that this core can believe",)
    if view.completed:
        return ()
    released = dict(seen.released)
    reasons = [
        f"{one.identity} has not released view {view.number}"
        for one in view.members
        if released.get(one.incarnation) != view.name
    ]
    if not keeps_promises(memory, view, now):
        reasons.append(f"{memory.identity} told a core to go on that is not in view {view.number}")
    if not vouched(memory, view, now, timing):
        lost = [past for past in view.base if past.fate == "lost"]
        names = ", ".join(f"{past.identity} ({past.incarnation})" for past in lost)
        reasons.append(f"nobody vouches that these have ended: {names}")
    return tuple(reasons)
