"""An authority: a domain name with its users and ways to sign in."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Annotated
from urllib.parse import urlsplit

import msgspec

from placeos.model.rules import Entity, Failure, Rule
from placeos.model.text import is_host

MAX_OBJECT = 100_000  # characters of a free JSON object


class Authority(Entity, kw_only=True):
    """One domain. `login_url` may contain `{{url}}`, the page to return to."""

    name: Annotated[str, Rule(required=True, text=True, max_length=255)]
    description: Annotated[str, Rule(html=True, max_length=100_000)] = ""
    domain: Annotated[str, Rule(required=True, strip=True, max_length=255)]
    login_url: str = "/login?continue={{url}}"
    logout_url: str = "/auth/logout"
    internals: Annotated[dict[str, object], Rule(max_length=MAX_OBJECT)] = {}
    config: Annotated[dict[str, object], Rule(max_length=MAX_OBJECT)] = msgspec.field(
        default_factory=lambda: {"default_app": "/backoffice/"}
    )
    email_domains: list[str] = []

    def tidy(self) -> None:
        """Keep the host of a domain that was given as a URL; e-mail domains in lower case."""
        self.domain = host_of(self.domain)
        domains = (domain.strip().lower() for domain in self.email_domains)
        self.email_domains = list(dict.fromkeys(domain for domain in domains if domain))

    def failures(self) -> Iterator[Failure]:
        """The domain must be a host name or address."""
        if not is_host(self.domain):
            yield Failure("domain", "is invalid")


@lru_cache(maxsize=1024)
def host_of(address: str) -> str:
    """The lower-case host of a URL, of `host:port` or of a bare host name."""
    text = address.strip().lower()
    try:
        host = urlsplit(text if "://" in text else f"//{text}").hostname
    except ValueError:
        return text
    return host or ""
