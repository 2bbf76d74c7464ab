"""Rights beyond the token's role: grants on zones, delegated to groups.

There are no groups yet: nobody is granted anything, and only the role decides. This is the one
place to ask, so that routes need not change when there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntFlag

from placeos.api import errors
from placeos.api.call import Call
from placeos.api.routes import Role


class Verb(IntFlag):
    """What a grant allows; the bits of a group's permissions."""

    READ = 1
    CREATE = 2
    UPDATE = 4
    DELETE = 8
    OPERATE = 16


async def require(call: Call, least: Role, verb: Verb, zones: Sequence[str] = ()) -> None:
    """Raises 403 unless the role suffices or a grant on any of the zones allows the verb."""
    if call.claims.clearance >= least:
        return
    if not await granted(call, verb, zones):
        raise errors.forbidden()


async def granted(call: Call, verb: Verb, zones: Sequence[str]) -> bool:
    """Whether a group of the caller may do this in any of the zones."""
    return False
