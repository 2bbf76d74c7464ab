"""The API's description as a page to read, made on the server: no scripts, no other files."""

from __future__ import annotations

from html import escape
from typing import Any

import msgspec

Json = dict[str, Any]

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0; display: grid;
  grid-template-columns: 15rem minmax(0, 1fr); }
nav { position: sticky; top: 0; height: 100vh; overflow: auto; padding: 1.5rem;
  border-right: 1px solid var(--line); box-sizing: border-box; }
nav a { display: block; padding: .15rem 0; color: inherit; }
main { padding: 1.5rem 2.5rem 6rem; max-width: 60rem; }
details { border: 1px solid var(--line); border-radius: .4rem; margin: .4rem 0; }
summary { padding: .45rem .8rem; cursor: pointer; }
details > div { padding: 0 1rem 1rem; }
code, pre { font: 13px/1.45 ui-monospace, monospace; }
pre { background: var(--soft); padding: .8rem; overflow: auto; border-radius: .4rem; }
.method { display: inline-block; min-width: 3.6rem; font-weight: 700; }
.get { color: #2a7de1; } .post { color: #1a8f4a; } .put, .patch { color: #b7791f; }
.delete { color: #d33; }
table { border-collapse: collapse; } td, th { text-align: left; padding: .2rem 1rem .2rem 0;
  vertical-align: top; }
.muted { opacity: .7; }
@media (max-width: 50rem) { body { display: block; } nav { position: static; height: auto; } }
"""


def page(document: Json) -> str:
    """The whole page."""
    info = document["info"]
    tags = [tag["name"] for tag in document["tags"]]
    links = "".join(f'<a href="#{escape(tag)}">{escape(tag)}</a>' for tag in [*tags, "Schemas"])
    sections = "".join(_section(document, tag) for tag in tags)
    schemas = "".join(
        _schema(name, schema) for name, schema in sorted(document["components"]["schemas"].items())
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{escape(info['title'])} API</title><style>{_STYLE}</style></head><body>"
        f"<nav><strong>{escape(info['title'])}</strong> {escape(info['version'])}{links}"
        '<a href="openapi.json">openapi.json</a></nav><main>'
        f"<h1>{escape(info['title'])} API</h1><p>{escape(info['description'])}</p>"
        "<p>Send <code>Authorization: Bearer …</code> or <code>X-API-Key: …</code>.</p>"
        f'{sections}<h2 id="Schemas">Schemas</h2>{schemas}</main></body></html>'
    )


def _section(document: Json, tag: str) -> str:
    operations = "".join(
        _operation(method, path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if tag in operation["tags"]
    )
    return f'<h2 id="{escape(tag)}">{escape(tag)}</h2>{operations}'


def _operation(method: str, path: str, operation: Json) -> str:
    rows = "".join(
        f"<tr><td><code>{escape(one['name'])}</code></td><td class=muted>{one['in']}"
        f"{', required' if one['required'] else ''}</td><td>{one['schema']['type']}</td>"
        f"<td>{escape(one.get('description', ''))}</td></tr>"
        for one in operation["parameters"]
    )
    body = ""
    if "requestBody" in operation:
        body = f"<p>Body: {_content(operation['requestBody'])}</p>"
    answers = "".join(
        f"<tr><td>{status}</td><td>{escape(one['description'])}</td><td>{_content(one)}</td></tr>"
        for status, one in operation["responses"].items()
    )
    return (
        f'<details><summary><span class="method {method}">{method.upper()}</span>'
        f"<code>{escape(path)}</code> <span class=muted>{escape(operation['summary'])}</span>"
        f"</summary><div><p>{escape(operation['description'])}</p>"
        f"<table>{rows}</table>{body}<table>{answers}</table></div></details>"
    )


def _content(holder: Json) -> str:
    for content in holder.get("content", {}).values():
        schema = content["schema"]
        inner = schema.get("items", schema) if schema.get("type") == "array" else schema
        if "$ref" in inner:
            name = escape(inner["$ref"].rpartition("/")[2])
            many = "list of " if inner is not schema else ""
            return f'{many}<a href="#schema-{name}">{name}</a>'
        return f"<code>{escape(msgspec.json.encode(schema).decode())}</code>"
    return ""


def _schema(name: str, schema: Json) -> str:
    text = msgspec.json.format(msgspec.json.encode(schema), indent=2).decode()
    return (
        f'<details id="schema-{escape(name)}"><summary><code>{escape(name)}</code> '
        f"<span class=muted>{escape(schema.get('description', ''))}</span></summary>"
        f"<div><pre>{escape(text)}</pre></div></details>"
    )
