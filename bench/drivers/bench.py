"""A module that costs nothing itself, to measure what is around it."""

from placeos.driver import Logic


class Bench(Logic):
    """Answers at once, and publishes as much as it is asked to."""

    module_name = "Bench"

    async def echo(self, value: int) -> int:
        """Return the value."""
        return value

    async def burst(self, number: int, keys: int) -> None:
        """Set that many state keys, `key0` and on, to the number."""
        for key in range(keys):
            self[f"key{key}"] = number
