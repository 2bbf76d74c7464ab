"""What an administrator says of packages reaches uv, and nothing else does."""

from __future__ import annotations

from pathlib import Path

import pytest

from placeos.config import ConfigError, load
from placeos.driver.environment_build import Packages
from placeos.local.services import core_options

NEEDED = {
    "PLACEOS_DATA": "/data",
    "PLACEOS_SECRETS": "/secrets",
    "PLACEOS_DATABASE_URL": "postgresql://",
    "PLACEOS_REDIS_URL": "redis://",
}


def test_variables_are_read():
    config = load(
        NEEDED | {"PLACEOS_PACKAGES_FOLDER": "/wheels", "PLACEOS_PACKAGES_OFFLINE": "TRUE"}
    )
    assert (config.packages_folder, config.packages_offline) == ("/wheels", True)
    assert not config.packages_from_source


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PLACEOS_PACKAGES_FOLDER", "wheels"),
        ("PLACEOS_PACKAGES_OFFLINE", "yes"),
        ("PLACEOS_PACKAGES_FROM_SOURCE", "acme"),
    ],
)
def test_what_is_wrong_is_named(name, value):
    with pytest.raises(ConfigError, match=name):
        load(NEEDED | {name: value})


def test_up_hands_them_to_its_cores():
    environ = {
        "PLACEOS_PACKAGES_INDEX": "a",
        "PLACEOS_DRIVER_MEMORY": "1",
        "PLACEOS_DATA": "b",
        "PATH": "c",
    }
    assert core_options(environ) == {"PLACEOS_PACKAGES_INDEX": "a", "PLACEOS_DRIVER_MEMORY": "1"}


def test_uv_is_told_by_its_environment():
    ours = {"PLACEOS_DATABASE_URL": "secret", "UV_HTTP_TIMEOUT": "3", "HTTPS_PROXY": "p"}
    packages = Packages(index="https://a:b@one https://two", folder="/wheels")
    told = packages.environment(ours, Path("/cache"))
    assert told["UV_DEFAULT_INDEX"] == "https://a:b@one"
    assert told["UV_INDEX"] == "https://two"
    assert told["UV_FIND_LINKS"] == "/wheels"
    assert "UV_NO_INDEX" not in told
    assert "UV_OFFLINE" not in told
    assert (told["UV_HTTP_TIMEOUT"], told["HTTPS_PROXY"]) == ("3", "p")
    assert "PLACEOS_DATABASE_URL" not in told
    only = Packages(folder="/wheels", offline=True).environment({}, Path("/cache"))
    assert (only["UV_NO_INDEX"], only["UV_OFFLINE"]) == ("1", "1")
    assert "UV_INDEX" not in Packages().environment({}, Path("/cache"))
