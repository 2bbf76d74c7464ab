"""What a stopped module may still try to do, while its `stopped` runs and after it."""

from __future__ import annotations

import asyncio

from placeos.driver.testing import drive

TRIES = """
    import asyncio
    from placeos.driver import Logic, every, on

    class Tries(Logic):
        runs = 0

        async def started(self) -> None:
            self._timer = self.schedule.every(0.02, self._run)
            self._timer.pause()
            await asyncio.sleep(0.1)

        @every(0.02)
        async def tick(self) -> None:
            self._run()

        @on("Display_1", "power")
        async def _power(self, power: bool | None) -> None:
            self._run()

        async def stopped(self) -> None:
            for attempt in (self._timer.resume, lambda: self.schedule.in_(0, self._run)):
                try:
                    attempt()
                except Exception as error:
                    self.log.warning("refused: %s", error)
            self._timer.trigger()
            await asyncio.sleep(0.2)  # meanwhile `started` ends

        def _run(self) -> None:
            print("it ran", flush=True)
"""


async def test_nothing_begins_any_more(write_driver, capfd) -> None:
    async with drive(write_driver(TRIES), connected=False) as tries:
        await tries.stop()
        assert sum("refused: the module was stopped" in line.message for line in tries.logs) == 2
        await asyncio.sleep(0.1)  # several of its periods
    assert "it ran" not in capfd.readouterr().out


async def test_a_library_that_gives_up_ends_no_other_module(write_driver) -> None:
    file = write_driver("""
        from placeos.driver import Logic

        class GivesUp(Logic):
            async def started(self) -> None:
                self.schedule.in_(0, self._give_up)
                self.spawn(self._later())

            async def _later(self) -> None:
                raise SystemExit("nor do I")

            def _give_up(self) -> None:
                raise SystemExit("I cannot go on")

            def well(self) -> bool:
                return True
    """)
    async with drive(file) as gives_up:
        await gives_up.fault("_give_up: SystemExit: I cannot go on")
        await gives_up.fault("_later: SystemExit: nor do I")
        assert await gives_up.exec("well")
