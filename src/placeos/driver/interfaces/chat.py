"""Language models that use functions of a driver, and chats."""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, Final, TypeVar

from placeos.driver.interfaces.base import (
    NAMESPACE,
    Interface,
    Record,
    driver_of,
    outcome,
    published,
)
from placeos.driver.schema import encode

F = TypeVar("F", bound=Callable[..., object])

_ATTRIBUTE: Final = "__placeos_description__"


def description(text: str = "") -> Callable[[F], F]:
    """Let a language model use this function; without `text` its docstring describes it."""

    def decorate(method: F) -> F:
        setattr(method, _ATTRIBUTE, text or inspect.getdoc(method) or "")
        return method

    return decorate


class ChatFunctions(Interface):
    """Offers those of its functions that have `@description` to language models."""

    interface_name = f"{NAMESPACE}::ChatFunctions"
    state_keys = {
        "capabilities": "what `capabilities` gave",
        "function_schemas": "what `function_schemas` gave",
    }

    @abstractmethod
    async def capabilities(self) -> str:
        """What the driver can do, in a few sentences; asked again when settings change."""

    async def function_descriptions(self) -> dict[str, str]:
        """What each of the functions does."""
        blueprint = driver_of(self)._module.blueprint
        found = {
            name: _described(type(self), function.method)
            for name, function in blueprint.functions.items()
        }
        return {name: text for name, text in found.items() if text is not None}

    async def function_schemas(self) -> list[dict[str, object]]:
        """Each of the functions with its description and the JSON Schema of its arguments."""
        interface = driver_of(self)._module.blueprint.metadata.interface
        return [
            {"function": name, "description": text, "parameters": interface[name]}
            for name, text in (await self.function_descriptions()).items()
        ]

    async def _interfaces_prepared(self) -> None:
        await super()._interfaces_prepared()
        driver = driver_of(self)
        driver["capabilities"] = await outcome(self.capabilities())
        driver["function_schemas"] = await outcome(self.function_schemas())


def _described(cls: type, method: str) -> str | None:
    """The nearest description along the base classes: an override keeps it."""
    texts = (getattr(vars(base).get(method), _ATTRIBUTE, None) for base in cls.__mro__)
    return next((text for text in texts if text is not None), None)


@published("ChatBot::Id")
class ChatId(Record):
    """Where a message came from."""

    message_id: str
    room_id: str | None = None
    user_id: str | None = None
    org_id: str | None = None


class ChatMessage(Record):
    """Something that was said to the bot."""

    id: ChatId
    text: str


@published("ChatBot::Attachment")
class ChatAttachment(Record):
    """A file. `payload` is in base64."""

    name: str
    payload: str


class ChatBot(Interface):
    """Takes part in chats, and publishes what it is told on `chat/<bot>/<org>/message`."""

    interface_name = f"{NAMESPACE}::ChatBot"

    @abstractmethod
    async def notify_typing(self, id: ChatId) -> object:
        """Show that an answer is being written."""

    @abstractmethod
    async def reply(
        self,
        id: ChatId,
        response: str,
        url: str | None = None,
        attachment: ChatAttachment | None = None,
    ) -> object:
        """Answer a message."""

    def _publish_chat_message(self, bot: str, org: str, message: ChatMessage) -> None:
        """Tell everyone what was said to the bot."""
        driver: Any = driver_of(self)
        driver.publish(f"chat/{bot}/{org}/message", encode(message).decode())
