"""Text messages and mail."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from placeos.driver.interfaces.base import (
    NAMESPACE,
    Interface,
    Record,
    driver_of,
    outcome,
    published,
)
from placeos.driver.settings import Settings

Addresses = str | Sequence[str]
Scalar = str | int | float | bool | None

_PLACEHOLDER: Final = re.compile(r"%\{([^}]*)\}")


class SMS(Interface):
    """Sends text messages."""

    interface_name = f"{NAMESPACE}::SMS"

    @abstractmethod
    async def send_sms(
        self,
        phone_numbers: str | Sequence[str],
        message: str,
        format: str = "SMS",
        source: str | None = None,
    ) -> object:
        """Send a message, as `SMS` or `MMS`; `source` is the number it comes from."""


class Attachment(Record):
    """A file. `content` is in base64."""

    file_name: str
    content: str


class ResourceAttachment(Attachment):
    """A picture that the HTML of a mail shows by `cid:<content_id>`."""

    content_id: str


class MailTemplate(msgspec.Struct):
    """A text with placeholders such as `%{name}`."""

    subject: str
    text: str | None = None
    html: str | None = None


class MailerSettings(Settings):
    """From which the settings of a mailer are derived. Templates: event → who is told."""

    email_templates: dict[str, dict[str, MailTemplate]] = {}


class Mailer(Interface):
    """Sends mail, also from templates in its settings."""

    interface_name = f"{NAMESPACE}::Mailer"
    settings_needed = MailerSettings

    @abstractmethod
    async def send_mail(
        self,
        to: Addresses,
        subject: str,
        message_plaintext: str | None = None,
        message_html: str | None = None,
        resource_attachments: Sequence[ResourceAttachment] = (),
        attachments: Sequence[Attachment] = (),
        cc: Addresses = (),
        bcc: Addresses = (),
        from_: Addresses | None = None,
        reply_to: Addresses | None = None,
    ) -> object:
        """Send a mail."""

    async def send_template(
        self,
        to: Addresses,
        template: tuple[str, str],
        args: dict[str, Scalar],
        resource_attachments: Sequence[ResourceAttachment] = (),
        attachments: Sequence[Attachment] = (),
        cc: Addresses = (),
        bcc: Addresses = (),
        from_: Addresses | None = None,
        reply_to: Addresses | None = None,
    ) -> object:
        """Send the mail that a template (event, who is told) gives with these values.

        Without such a template nothing is sent, and a warning logged.
        """
        driver = driver_of(self)
        event, who = template
        found: MailTemplate | None = driver.settings.email_templates.get(event, {}).get(who)
        if found is None:
            driver.log.warning("no template %s, %s among email_templates", event, who)
            return None
        return await outcome(
            self.send_mail(
                to,
                await self.build_template(found.subject, args) or "",
                await self.build_template(found.text, args) or "",
                await self.build_template(found.html, args) or "",
                resource_attachments,
                attachments,
                cc,
                bcc,
                from_,
                reply_to,
            )
        )

    async def build_template(self, string: str | None, args: dict[str, Scalar]) -> str | None:
        """Put values in the place of `%{name}`, as they are; unknown names stay."""
        return None if string is None else fill_in(string, args)


def fill_in(text: str, values: Mapping[str, Scalar]) -> str:
    """Put `values` in the place of `%{name}`; what a value holds is not looked at again."""

    def value(found: re.Match[str]) -> str:
        name = found.group(1)
        return _text(values[name]) if name in values else found.group()

    return _PLACEHOLDER.sub(value, text)


def _text(value: Scalar) -> str:
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


class TemplateField(Record):
    """A placeholder."""

    name: str
    description: str


@published("MailerTemplates::TemplateFields")
class TemplateFields(Record):
    """The placeholders of a template; `trigger` is what `send_template` calls `template`."""

    trigger: tuple[str, str]
    name: str
    fields: list[TemplateField]
    description: str | None = None


class MailerTemplates(Interface):
    """Sends mail through a mailer, and tells which placeholders its templates may have."""

    interface_name = f"{NAMESPACE}::MailerTemplates"

    @abstractmethod
    async def template_fields(self) -> Sequence[TemplateFields]:
        """The templates it uses."""
