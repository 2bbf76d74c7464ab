"""The names of scopes: what a token may be limited to."""

from __future__ import annotations

RESOURCES = (
    "api_keys", "brokers", "build_monitor", "cluster", "control", "domains", "drivers",
    "edge-control", "edges", "guest", "ldap_authentications", "metadata", "modules", "mqtt",
    "o_auth_applications", "o_auth_authentications", "public", "repositories", "root",
    "saml_authentications", "schema", "settings", "system_triggers", "systems", "triggers", "users",
    "webhook", "zones",
)  # fmt: skip
"""Each is a scope by itself, and with `.read` or `.write`."""
