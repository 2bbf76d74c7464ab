"""Where drivers come from: show repositories, and have one fetched."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from placeos.cli.options import ApiKey, AsJson, Url, connect
from placeos.cli.output import ASKED_WRONGLY, CliError, print_json, print_table, segment

if TYPE_CHECKING:
    from placeos.cli.client import Client

_ALL = 10_000
_PULL_TIMEOUT = 70.0  # seconds; the platform answers after 60
_SHORT = 12  # digits of a commit that are shown


class Repository(msgspec.Struct):
    """What is shown of a repository."""

    id: str
    name: str = ""
    uri: str = ""
    branch: str = ""
    folder_name: str = ""
    repo_type: str = ""
    deployed_commit_hash: str | None = None
    error_message: str | None = None

    @property
    def place(self) -> str:
        """The address, and the branch if it has any."""
        return self.uri if _is_folder(self.uri) else f"{self.uri} {self.branch}"


class _Driver(msgspec.Struct):
    repository_id: str = ""


class _Pulled(msgspec.Struct):
    commit_hash: str


def repositories(as_json: AsJson = False, url: Url = None, api_key: ApiKey = None) -> None:
    """List repositories of drivers: what is deployed, newer versions of pinned drivers, errors."""
    with connect(url, api_key) as client:
        if as_json:
            print_json(client.get("/repositories", list[dict[str, object]], limit=_ALL))
            return
        found = _listed(client)
        query = {"update_available": "true", "limit": _ALL}
        updates = [one.repository_id for one in client.get("/drivers", list[_Driver], **query)]
    print_table(
        ("NAME", "COMMIT", "UPDATES", "FROM", "ID", "ERROR"),
        (
            (
                one.name,
                (one.deployed_commit_hash or "")[:_SHORT],
                str(updates.count(one.id) or ""),
                one.place,
                one.id,
                one.error_message or "",
            )
            for one in found
        ),
        empty="There are no repositories yet.",
    )


def pull(
    repository: Annotated[
        str, typer.Argument(metavar="REPOSITORY", help="Its name, folder name or id.")
    ],
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Fetch what is newest in a repository, and wait for it."""
    with connect(url, api_key) as client:
        id = _find(_listed(client), repository)
        try:
            answer = client.post(f"/repositories/{segment(id)}/pull", {}, timeout=_PULL_TIMEOUT)
        except CliError as error:
            if error.status == 408:
                raise CliError(str(error), hint="It goes on; follow it with: placeos jobs --watch",
                               status=408) from error  # fmt: skip
            raise
    typer.echo(msgspec.json.decode(answer, type=_Pulled).commit_hash)


def _listed(client: Client) -> list[Repository]:
    found = client.get("/repositories", list[Repository], limit=_ALL)
    return [one for one in found if one.repo_type == "driver"]


def _find(known: list[Repository], wanted: str) -> str:
    """The id of the one that is meant. Raises CliError naming those there are."""
    found = [one for one in known if one.id == wanted]
    found = found or [one for one in known if wanted in (one.name, one.folder_name)]
    if len(found) == 1:
        return found[0].id
    what = "several repositories are called" if found else "there is no repository of drivers"
    lines = [f"  {one.id}  {one.name}" for one in found or known]
    hint = "\n".join(["There are:", *lines]) if lines else ""
    raise CliError(f"{what} {wanted!r}", hint=hint, exit_code=ASKED_WRONGLY)


def _is_folder(uri: str) -> bool:
    return uri.startswith("file:") and not uri.endswith(".git")
