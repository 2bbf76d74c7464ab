"""The processes of drivers on all cores: what each uses, and what is wrong with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, TypeVar

import msgspec
import typer

from placeos.cli.options import ApiKey, AsJson, Url, connect
from placeos.cli.output import ASKED_WRONGLY, CliError, print_json, print_table, segment

if TYPE_CHECKING:
    from placeos.cli.client import Client

_T = TypeVar("_T")

app = typer.Typer(
    invoke_without_command=True,
    help="Show drivers' processes: use of processor and memory, troubles, walls; end one.",
)


class Process(msgspec.Struct):
    """What is shown of a driver's process. Memory in KiB, CPU in percent of a processor."""

    file: str = ""
    pid: int | None = None
    module_instances: int = 0
    percentage_cpu: float | None = None
    memory_usage: int | None = None
    launch_count: int = 0
    problem: str = ""
    last_end: str = ""
    troubles: dict[str, str] = {}
    errors: dict[str, list[str]] = {}
    isolation: dict[str, str] = {}

    def reasons(self) -> list[str]:
        """What is wrong with it, the worst first; of its modules the first error of each kind."""
        told = [self.problem, *self.troubles.values(), self.last_end]
        told += [text for texts in self.errors.values() for text in texts]
        lines = (text.strip().partition("\n")[0] for text in told)
        short = (line.removeprefix("its driver process ") for line in lines)
        return [line for line in dict.fromkeys(short) if line]


class _Local(msgspec.Struct):
    status: Process = msgspec.field(default_factory=Process)


class _Driver(msgspec.Struct):
    driver: str = ""
    local: _Local = msgspec.field(default_factory=_Local)


class _Node(msgspec.Struct):
    id: str


@app.callback()
def processes(
    context: typer.Context,
    walls: Annotated[
        bool, typer.Option("--walls", help="Show how far each process is confined.")
    ] = False,
    as_json: AsJson = False,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Show drivers' processes: use of processor and memory, troubles, walls; end one."""
    if context.invoked_subcommand is not None:
        return
    with connect(url, api_key) as client:
        if as_json:
            print_json(
                {node: _ask(client, node, list[dict[str, object]]) for node in _nodes(client)}
            )
            return
        found = [
            (node, driver.driver, driver.local.status)
            for node in _nodes(client)
            for driver in _ask(client, node, list[_Driver])
        ]
    if walls:
        _print_walls([(node, process) for node, _, process in found])
    else:
        _print(found)


@app.command()
def terminate(
    core: Annotated[str, typer.Argument(help="Name of the core.")],
    driver: Annotated[str, typer.Argument(help="Id of the driver.")],
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """End the processes of a driver on one core at once. Their modules start in new ones."""
    with connect(url, api_key) as client:
        try:
            client.delete(f"/cluster/{segment(core)}?driver={segment(driver)}")
        except CliError as error:
            if error.status != 404:
                raise
            raise CliError(str(error), exit_code=ASKED_WRONGLY) from error
    typer.echo("Ended; it starts again.")


def _nodes(client: Client) -> list[str]:
    return [node.id for node in client.get("/cluster", list[_Node])]


def _ask(client: Client, node: str, kind: type[list[_T]]) -> list[_T]:
    return client.get(f"/cluster/{segment(node)}", kind, include_status="true")


def _print(found: list[tuple[str, str, Process]]) -> None:
    print_table(
        ("CORE", "FILE", "PID", "MODULES", "CPU", "MEMORY", "STARTS", "DRIVER", "REASON"),
        (
            (
                node,
                process.file,
                str(process.pid or "-"),
                str(process.module_instances),
                _number(process.percentage_cpu, 1, "%"),
                _number(process.memory_usage, 1024, "MiB"),
                str(process.launch_count),
                driver,
                "; ".join(process.reasons()[:3]),
            )
            for node, driver, process in found
        ),
        empty="No driver runs.",
    )


def _print_walls(found: list[tuple[str, Process]]) -> None:
    print_table(
        ("CORE", "FILE", "WALL", "LEVEL"),
        (
            (node, process.file, wall, level)
            for node, process in found
            for wall, level in process.isolation.items()
        ),
        empty="No driver runs.",
    )


def _number(value: float | None, unit: int, name: str) -> str:
    return "-" if value is None else f"{value / unit:.0f} {name}"
