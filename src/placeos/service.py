"""What every service process has in common: loop, logging, signals, one clean end."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import sys
from collections.abc import Awaitable, Callable

import structlog
import uvloop

from placeos.config import Config, ConfigError, load

Main = Callable[[Config], Awaitable[None]]

SETTLED = 10.0  # seconds after which what a service holds is mostly there to stay


def configure_logging(service: str, *, level: int = logging.INFO) -> None:
    """JSON lines on standard error: static event names, data in fields."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.ExtraAdder(), *shared],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for chatty in ("httpx", "httpcore", "alembic", "_granian"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    structlog.contextvars.bind_contextvars(service=service)


def run(service: str, main: Main) -> None:
    """Run a service until SIGTERM or SIGINT. Exits 2 when its configuration is unusable."""
    configure_logging(service)
    log = logging.getLogger(service)

    async def guarded(config: Config) -> None:
        task = asyncio.current_task()
        assert task is not None
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, task.cancel)
        # The collector has a large, lasting heap to walk and little to find: look at the young
        # objects less often, and never again at those that came with the start.
        gc.set_threshold(10_000, 50, 100)
        loop.call_later(SETTLED, gc.freeze)
        try:
            await main(config)
        except asyncio.CancelledError:
            log.info("stopped")

    try:
        uvloop.run(guarded(load()))
    except ConfigError as error:
        log.critical("configuration", extra={"reason": str(error)})
        sys.exit(2)
