"""Caddy's configuration, generated. Pure: nothing is started or written here.

Which doors there are:

* without host names, plain HTTP on loopback only: `http://localhost:PORT`;
* with host names, loopback stays as it is, and the same port of every other interface speaks
  TLS with certificates of Caddy's own authority (plain HTTP there is redirected to it). Two
  sockets share the port: the kernel hands a connection to the more specific one. The
  authority's certificate, for browsers to trust, is
  `<storage>/pki/authorities/local/root.crt`; nothing is installed into the system by itself.

While a service is being restarted, requests wait up to `PATIENCE` for it. A request is sent a
second time only if the first could not be delivered at all, or if it only reads. Requests that
change something get a connection of their own: on a pooled one that the service is just
closing nobody could tell whether they arrived.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

JSON = Mapping[str, object]

CONTROL_PATH: Final = "/api/engine/v2/systems/control"
HEALTH_PATH: Final = "/healthz"
PATIENCE: Final = "8s"  # how long a request waits for a service that is being restarted
MAX_BODY: Final = 64 * 1024 * 1024  # bytes; above the API's own limit, which answers for itself
READING: Final = ["GET", "HEAD"]
STATIC: Final = Path(__file__).with_name("static")


def caddy_config(
    *,
    listen_port: int,
    hosts: Sequence[str] = (),
    api: str,
    control: str,
    auth: str,
    storage: Path,
    static: Path = STATIC,
    access_log: Path | None = None,
) -> bytes:
    """The configuration as JSON text for `caddy run --config FILE`; see `configuration`."""
    content = configuration(
        port=listen_port,
        hosts=hosts,
        api=api,
        control=control,
        auth=auth,
        storage=storage,
        static=static,
        access_log=access_log,
    )
    return msgspec.json.format(msgspec.json.encode(content), indent=2)


def configuration(
    *,
    port: int,
    hosts: Sequence[str],
    api: str,
    control: str,
    auth: str,
    storage: Path,
    static: Path,
    access_log: Path | None,
) -> JSON:
    """The configuration as a dictionary.

    `api`, `control` and `auth` are where the services listen (host:port), `storage` is where
    Caddy keeps certificates, `access_log` where it notes requests, without their queries.
    """
    routes = _routes(api, control, auth, static)
    servers: dict[str, JSON] = {"local": _server([f"127.0.0.1:{port}"], routes, access_log)}
    apps: dict[str, object] = {"http": {"servers": servers}}
    if hosts:
        servers["public"] = {
            **_server([f":{port}"], routes, access_log),
            "listener_wrappers": [{"wrapper": "http_redirect"}, {"wrapper": "tls"}],
            "tls_connection_policies": [{"default_sni": hosts[0]}],
            "strict_sni_host": False,
        }
        apps["tls"] = {
            "certificates": {"automate": list(hosts)},
            "automation": {
                "policies": [{"subjects": list(hosts), "issuers": [{"module": "internal"}]}]
            },
        }
        apps["pki"] = {"certificate_authorities": {"local": {"install_trust": False}}}
    return {
        "admin": {"disabled": True, "config": {"persist": False}},
        "storage": {"module": "file_system", "root": str(storage)},
        "logging": _logging(access_log),
        "apps": apps,
    }


def _server(listen: Sequence[str], routes: Sequence[JSON], access_log: Path | None) -> JSON:
    server: dict[str, object] = {
        "listen": list(listen),
        "protocols": ["h1", "h2"],
        "automatic_https": {"disable": True},
        "read_header_timeout": "10s",
        "idle_timeout": "5m",
        "routes": list(routes),
        "errors": {"routes": _error_routes()},
    }
    if access_log is not None:
        server["logs"] = {}
    return server


def _routes(api: str, control: str, auth: str, static: Path) -> list[JSON]:
    return [
        _route([HEALTH_PATH], [{"handler": "static_response", "status_code": 200, "body": "ok"}]),
        _route([CONTROL_PATH, f"{CONTROL_PATH}/"], [_proxy(control)]),
        *_service(["/api", "/api/*"], api),
        *_service(["/auth", "/auth/*", "/.well-known/*"], auth),
        {
            "match": [{"method": READING}],
            "handle": [_static_headers(), _static_files(static)],
            "terminal": True,
        },
        {"handle": [{"handler": "static_response", "status_code": 405}]},
    ]


def _route(paths: Sequence[str], handlers: Sequence[JSON]) -> JSON:
    return {"match": [{"path": list(paths)}], "handle": list(handlers), "terminal": True}


def _service(paths: Sequence[str], address: str) -> list[JSON]:
    limit = {"handler": "request_body", "max_size": MAX_BODY}
    reading = {
        "match": [{"path": list(paths), "method": READING}],
        "handle": [limit, _proxy(address)],
        "terminal": True,
    }
    return [reading, _route(paths, [limit, _proxy(address, reuse=False)])]


def _proxy(address: str, *, reuse: bool = True) -> JSON:
    pool = {"idle_timeout": "60s", "max_idle_conns_per_host": 256}
    return {
        "handler": "reverse_proxy",
        "upstreams": [{"dial": address}],
        "load_balancing": {
            "try_duration": PATIENCE,
            "try_interval": "50ms",
            "retry_match": [{"method": READING}],
        },
        "transport": {
            "protocol": "http",
            "dial_timeout": "2s",
            "keep_alive": pool if reuse else {"enabled": False},
        },
    }


def _static_headers() -> JSON:
    headers = {
        "X-Content-Type-Options": ["nosniff"],
        "Referrer-Policy": ["same-origin"],
        "Cache-Control": ["no-cache"],
    }
    return {"handler": "headers", "response": {"set": headers}}


def _static_files(static: Path) -> JSON:
    return {"handler": "file_server", "root": str(static), "index_names": ["index.html"]}


def _error_routes() -> list[JSON]:
    """Errors of Caddy's own as the API's clients know them. What a service answers stays."""
    unavailable = "the service does not answer at present; try again"
    return [
        {
            "match": [{"expression": "{http.error.status_code} in [502, 503, 504]"}],
            "handle": [_error(unavailable, {"Retry-After": ["1"]})],
            "terminal": True,
        },
        {"handle": [_error("{http.error.status_text}", {})]},
    ]


def _error(message: str, headers: Mapping[str, Sequence[str]]) -> JSON:
    return {
        "handler": "static_response",
        "status_code": "{http.error.status_code}",
        "headers": {"Content-Type": ["application/json"], **headers},
        "body": f'{{"error":"{message}"}}',
    }


def _logging(access_log: Path | None) -> JSON:
    """Queries and headers may carry credentials, so no log shows them."""
    encoder = {
        "format": "filter",
        "wrap": {"format": "json", "time_format": "iso8601"},
        "fields": {
            "request>uri": {"filter": "regexp", "regexp": r"\?.*", "value": ""},
            "request>headers": {"filter": "delete"},
            "resp_headers": {"filter": "delete"},
            "uri": {"filter": "regexp", "regexp": r"\?.*", "value": ""},
        },
    }
    logs: dict[str, JSON] = {
        "default": {
            "writer": {"output": "stderr"},
            "level": "WARN",
            "encoder": encoder,
            "exclude": ["http.log.access"],
        }
    }
    if access_log is not None:
        logs["access"] = {
            "writer": {
                "output": "file",
                "filename": str(access_log),
                "mode": "0600",
                "roll_size_mb": 10,
                "roll_keep": 3,
            },
            "encoder": encoder,
            "include": ["http.log.access"],
        }
    return {"logs": logs}
