"""The front door: one address for static files, API, sign-in and websockets, kept by Caddy."""

from placeos.ingress.caddy import caddy_config, configuration

__all__ = ["caddy_config", "configuration"]
