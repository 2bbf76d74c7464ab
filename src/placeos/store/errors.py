"""How storing fails, in this package's own words."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg


class Unavailable(Exception):
    """PostgreSQL does not answer. What was asked may be tried again."""


class Refused(Exception):
    """A constraint of the database refused a change."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field} {reason}")
        self.field = field
        self.reason = reason


_LOST = (
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
    asyncpg.QueryCanceledError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
    asyncio.TimeoutError,
    EOFError,
)


@contextmanager
def translated() -> Iterator[None]:
    """Raise Unavailable and Refused in place of what asyncpg raises."""
    try:
        yield
    except asyncpg.UniqueViolationError as error:
        raise Refused(_field(error.constraint_name), "should be unique") from error
    except asyncpg.ForeignKeyViolationError as error:
        if "is still referenced" in (error.detail or ""):
            reason = "is still in use"
        else:
            reason = "does not exist"
        raise Refused(_field(error.constraint_name), reason) from error
    except (asyncpg.TransactionRollbackError, asyncpg.LockNotAvailableError) as error:
        raise Unavailable("another change was made at the same time, try again") from error
    except _LOST as error:
        # asyncpg's word for a parameter of a wrong type; but a certificate that does not verify
        # is a ValueError as well.
        if isinstance(error, ValueError) and not isinstance(error, OSError):
            raise
        raise Unavailable(f"the database is not available: {_why(error)}") from error


def _field(constraint: str | None) -> str:
    """The field of a constraint, which is named `<table>.<field>` in the migrations."""
    return (constraint or "id").rpartition(".")[2]


def _why(error: BaseException) -> str:
    return str(error) or type(error).__name__
