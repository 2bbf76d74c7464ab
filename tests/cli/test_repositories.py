"""Repositories on the command line."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from placeos.cli import repositories as cli
from placeos.cli.output import CliError

ONE = cli.Repository(
    "repo-1", "Drivers", "https://x.org/d.git", "main", "drivers", "driver", "abcdef0123456789"
)
TWO = cli.Repository("repo-2", "Twin", "file:///srv/d", "master", "twin", "driver", None, "no such")
THREE = cli.Repository("repo-3", "Twin", "file:///srv/e", "master", "drivers2", "driver")
UI = cli.Repository("repo-4", "Panels", "https://x.org/p.git", "main", "panels", "interface")


class FakeClient:
    """Stands for the platform."""

    def __init__(self) -> None:
        self.posted: list[str] = []
        self.error: CliError | None = None

    def __enter__(self) -> FakeClient:
        return self

    def __exit__(self, *_: object) -> None: ...

    def get(self, path: str, type: object, **query: object) -> Any:
        if path == "/drivers":
            assert query["update_available"] == "true"
            return msgspec.convert([{"repository_id": "repo-1"}] * 3, type)
        assert path == "/repositories"
        return [ONE, TWO, THREE, UI]

    def post(self, path: str, body: object, *, timeout: float) -> bytes:
        assert timeout > 60, "the platform itself waits for 60 s"
        if self.error is not None:
            raise self.error
        self.posted.append(path)
        return b'{"commit_hash": "abc123"}'


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> FakeClient:
    made = FakeClient()
    monkeypatch.setattr(cli, "connect", lambda *_: made)
    return made


def test_repositories_are_listed(client: FakeClient, capsys: pytest.CaptureFixture[str]) -> None:
    cli.repositories()
    _, *lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines] == [
        ["Drivers", "abcdef012345", "3", "https://x.org/d.git", "main", "repo-1"],
        ["Twin", "file:///srv/d", "repo-2", "no", "such"],
        ["Twin", "file:///srv/e", "repo-3"],
    ]


@pytest.mark.parametrize("name", ["Drivers", "drivers", "repo-1"])
def test_a_repository_is_pulled(
    client: FakeClient, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    cli.pull(name)
    assert client.posted == ["/repositories/repo-1/pull"]
    assert capsys.readouterr().out == "abc123\n"


@pytest.mark.parametrize(
    ("name", "said", "hint"),
    [("Panels", "there is no", "repo-1  Drivers"), ("Twin", "several", "repo-3  Twin")],
)
def test_one_that_is_not_meant_clearly(client: FakeClient, name: str, said: str, hint: str) -> None:
    with pytest.raises(CliError, match=said) as caught:
        cli.pull(name)
    assert hint in caught.value.hint
    assert caught.value.exit_code == 2
    assert client.posted == []


def test_a_pull_that_takes_longer(client: FakeClient) -> None:
    client.error = CliError("no answer within 60 s", status=408)
    with pytest.raises(CliError) as caught:
        cli.pull("Drivers")
    assert "placeos jobs --watch" in caught.value.hint
