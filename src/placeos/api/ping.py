"""Whether a host answers echo requests."""

from __future__ import annotations

import asyncio

COUNT = 3
TIMEOUT = 6.0  # seconds for all of them


async def ping(host: str) -> dict[str, object]:
    """Send three echo requests with the system's own `ping`, which has the right to."""
    result: dict[str, object] = {"host": host, "pingable": False}
    try:
        process = await asyncio.create_subprocess_exec(
            *("ping", "-n", "-q", "-c", str(COUNT), "-i", "0.2", "-W", "1", "--", host),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
    except OSError as error:
        return result | {"exception": f"cannot send echo requests: {error.strerror}"}
    try:
        async with asyncio.timeout(TIMEOUT):
            _, complaint = await process.communicate()
    except TimeoutError:
        return result | {"warning": f"no answer within {TIMEOUT:g} s"}
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode == 0:
        return result | {"pingable": True}
    text = complaint.decode("utf-8", "replace").strip()
    return result | ({"exception": text} if text else {})
