"""The tables, by their storage names. Columns are named as in the JSON of the API.

Times are unix seconds. `search` is computed by the database from what `q` searches (see the
migrations); it is never read back. The migrations are the truth of the schema, a test
compares them with this file.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    FetchedValue,
    ForeignKey,
    Integer,
    MetaData,
    SmallInteger,
    Table,
    Text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, TSVECTOR

from placeos.model.api_key import ApiKey
from placeos.model.authority import Authority
from placeos.model.driver import Driver
from placeos.model.module import Module
from placeos.model.repository import Repository
from placeos.model.rules import Entity
from placeos.model.settings import Settings
from placeos.model.system import System
from placeos.model.user import User
from placeos.model.zone import Zone

metadata = MetaData()


def _text(name: str, *, null: bool = False, of: str | None = None) -> Column[Any]:
    """A text column; `of` names the table whose id it holds."""
    if of is None:
        return Column(name, Text, nullable=null)
    return Column(name, Text, ForeignKey(f"{of}.id"), nullable=null)


def _flag(name: str) -> Column[Any]:
    return Column(name, Boolean, nullable=False)


def _number(name: str, *, null: bool = False) -> Column[Any]:
    return Column(name, BigInteger, nullable=null)


def _list(name: str) -> Column[Any]:
    return Column(name, ARRAY(Text), nullable=False)


def _object(name: str, *, null: bool = False) -> Column[Any]:
    return Column(name, JSONB(none_as_null=True), nullable=null)


def _table(name: str, *columns: Column[Any], search: bool = True) -> Table:
    first = [Column("id", Text, primary_key=True), _number("created_at"), _number("updated_at")]
    last = [Column("search", TSVECTOR, FetchedValue())] if search else []
    return Table(name, metadata, *first, *columns, *last)


authority = _table(
    "authority",
    _text("name"),
    _text("description"),
    _text("domain"),
    _text("login_url"),
    _text("logout_url"),
    _object("internals"),
    _object("config"),
    _list("email_domains"),
)

user = _table(
    "user",
    _text("authority_id", of="authority"),
    _text("name"),
    _text("nickname", null=True),
    _text("email"),
    _text("email_digest"),
    _text("phone", null=True),
    _text("country", null=True),
    _text("image", null=True),
    _text("ui_theme", null=True),
    _text("misc", null=True),
    _text("login_name", null=True),
    _text("staff_id", null=True),
    _text("first_name", null=True),
    _text("last_name", null=True),
    _text("building", null=True),
    _text("department", null=True),
    _text("preferred_language", null=True),
    _text("card_number", null=True),
    _list("groups"),
    _flag("sys_admin"),
    _flag("support"),
    _text("password_digest", null=True),
    _flag("deleted"),
    _text("access_token", null=True),
    _text("refresh_token", null=True),
    _number("expires_at", null=True),
    _flag("expires"),
    _flag("locatable"),
    _number("login_count"),
    _number("last_login", null=True),
    _number("logged_out_at", null=True),
    _object("work_preferences"),
    _object("work_overrides"),
    _text("photo_upload_id", null=True),
)

api_key = _table(
    "api_key",
    _text("name"),
    _text("description"),
    _list("scopes"),
    Column("permissions", SmallInteger, nullable=False),
    _number("expires_at", null=True),
    _text("user_id", of="user"),
    _text("authority_id", of="authority"),
    _text("secret"),
)

refresh_token = Table(
    "refresh_token",
    metadata,
    Column("id", Text, primary_key=True),
    _text("token_hash"),
    Column("user_id", Text, ForeignKey("user.id", ondelete="CASCADE"), nullable=False),
    Column("authority_id", Text, ForeignKey("authority.id", ondelete="CASCADE"), nullable=False),
    _text("client_id", null=True),
    _text("scope"),
    _number("created_at"),
    _number("expires_at"),
    _number("used_at", null=True),
    _number("revoked_at", null=True),
    _text("family"),
)

repo = _table(
    "repo",
    _text("name"),
    _text("description"),
    _text("folder_name"),
    _text("uri"),
    _text("commit_hash"),
    _text("branch"),
    _text("deployed_commit_hash", null=True),
    _flag("release"),
    _text("username", null=True),
    _text("password", null=True),
    _text("repo_type"),
    _text("root_path", null=True),
    _flag("has_runtime_error"),
    _text("error_message", null=True),
)

driver = _table(
    "driver",
    _text("name"),
    _text("description"),
    _text("json_schema"),
    _text("default_uri", null=True),
    Column("default_port", Integer),
    Column("role", SmallInteger, nullable=False),
    _text("alert_level"),
    _text("file_name"),
    _text("commit"),
    _text("compilation_output", null=True),
    _text("module_name"),
    _flag("ignore_connected"),
    _flag("update_available"),
    _object("update_info", null=True),
    _text("repository_id", of="repo"),
)

zone = _table(
    "zone",
    _text("name"),
    _text("description"),
    _list("tags"),
    _text("location", null=True),
    _text("display_name", null=True),
    _text("code", null=True),
    _text("type", null=True),
    _text("map_id", null=True),
    _text("place_id", null=True),
    _number("count"),
    _number("capacity"),
    _text("timezone", null=True),
    _list("triggers"),
    _list("images"),
    _list("playlists"),
    _text("parent_id", null=True, of="zone"),
)

sys = _table(
    "sys",
    _text("name"),
    _text("description"),
    _list("features"),
    _text("email", null=True),
    _flag("bookable"),
    _flag("public"),
    _text("display_name", null=True),
    _text("code", null=True),
    _text("type", null=True),
    _text("map_id", null=True),
    _number("capacity"),
    _flag("approval"),
    _list("images"),
    _list("security_groups"),
    _text("timezone", null=True),
    _text("support_url"),
    _text("timetable_url", null=True),
    _text("camera_url", null=True),
    _text("room_booking_url", null=True),
    _list("camera_snapshot_urls"),
    _number("installed_ui_devices"),
    _list("zones"),
    _list("modules"),
    _text("orientation"),
    _list("playlists"),
    _flag("signage"),
    _number("signage_last_seen"),
    _text("playlist_item_id", null=True),
    _object("space_config"),
    _number("version"),
)

mod = _table(
    "mod",
    _text("driver_id", of="driver"),
    _text("name"),
    _text("custom_name", null=True),
    Column("role", SmallInteger, nullable=False),
    _text("ip"),
    Column("port", Integer, nullable=False),
    _flag("tls"),
    _flag("udp"),
    _flag("makebreak"),
    _text("uri"),
    _text("control_system_id", null=True, of="sys"),
    _text("edge_id", null=True),
    _flag("connected"),
    _flag("running"),
    _text("notes"),
    _flag("ignore_connected"),
    _flag("ignore_startstop"),
    _flag("launch_on_execute"),
    _text("alert_level"),
    _flag("has_runtime_error"),
    _number("error_timestamp", null=True),
)

sets = _table(
    "sets",
    _text("parent_id"),
    _text("parent_type"),
    Column("encryption_level", SmallInteger, nullable=False),
    _text("settings_string"),
    _list("keys"),
    Column("settings_id", Text, ForeignKey("sets.id", ondelete="CASCADE")),
    _text("modified_by_id", null=True),
)

Table(
    "installation",
    metadata,
    Column("one", Boolean, primary_key=True),
    Column("epoch", Text, nullable=False),
    _number("progress"),
    _object("view", null=True),
)
"""One row, of no resource: see `installation.py`."""

TABLES: dict[type[Entity], Table] = {
    Authority: authority,
    User: user,
    ApiKey: api_key,
    Repository: repo,
    Driver: driver,
    Module: mod,
    System: sys,
    Zone: zone,
    Settings: sets,
}

ORDER: dict[type[Entity], tuple[Column[Any], ...]] = {
    kind: (table.c.name, table.c.id) for kind, table in TABLES.items() if kind is not Settings
} | {
    Module: (mod.c.custom_name, mod.c.name, mod.c.id),
    Settings: (sets.c.id,),
}
"""The order of every list."""
