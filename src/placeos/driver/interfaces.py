"""Standard interfaces: what an app or a room's logic may expect of a module.

A driver lists the interfaces it serves among its base classes and defines their abstract
methods. Names and spellings are the published ones (`PlaceOS::Driver::Interface::…`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from enum import Enum
from typing import Any, ClassVar, Final, TypeVar

from placeos.driver.schema import TITLES

NAMESPACE: Final = "PlaceOS::Driver::Interface"

E = TypeVar("E", bound=type[Enum])


def published(name: str) -> Callable[[E], E]:
    """Give an enum the title under which metadata shows it."""

    def decorate(cls: E) -> E:
        TITLES[cls] = f"{NAMESPACE}::{name}"
        return cls

    return decorate


class Interface(ABC):  # noqa: B024 - what is abstract comes with each interface
    """Base of all interfaces."""

    interface_name: ClassVar[str] = ""


@published("Powerable::PowerState")
class PowerState(Enum):
    """What `power_state` takes."""

    On = 0
    Off = 1
    FullOff = 2


class Powerable(Interface):
    """Can be switched on and off. State: `power` (bool)."""

    interface_name = f"{NAMESPACE}::Powerable"

    @abstractmethod
    async def power(self, state: bool) -> object:
        """Switch on or off."""

    async def power_state(self, state: PowerState) -> object:
        """Switch on or off; not every device knows a full off."""
        return await self.power(state is PowerState.On)


class AudioMuteable(Interface):
    """Can be silenced. State: `audio_mute` (bool)."""

    interface_name = f"{NAMESPACE}::AudioMuteable"

    @abstractmethod
    async def mute_audio(self, state: bool = True, index: int | str = 0) -> object:
        """Silence, or with false let sound through."""

    async def unmute_audio(self, index: int | str = 0) -> object:
        """Let sound through."""
        return await self.mute_audio(False, index)


class VideoMuteable(Interface):
    """Can be blanked. State: `video_mute` (bool)."""

    interface_name = f"{NAMESPACE}::VideoMuteable"

    @abstractmethod
    async def mute_video(self, state: bool = True, index: int | str = 0) -> object:
        """Blank the picture, or with false show it."""

    async def unmute_video(self, index: int | str = 0) -> object:
        """Show the picture."""
        return await self.mute_video(False, index)


@published("Muteable::MuteLayer")
class MuteLayer(Enum):
    """What a mute is about."""

    Audio = 0
    Video = 1
    AudioVideo = 2


class Muteable(VideoMuteable, AudioMuteable):
    """Picture and sound can be muted, apart or together. State: `mute` (bool)."""

    interface_name = f"{NAMESPACE}::Muteable"

    @abstractmethod
    async def mute(
        self,
        state: bool = True,
        index: int | str = 0,
        layer: MuteLayer = MuteLayer.AudioVideo,
    ) -> object:
        """Mute, or with false unmute."""

    async def unmute(self, index: int | str = 0, layer: MuteLayer = MuteLayer.AudioVideo) -> object:
        """Unmute."""
        return await self.mute(False, index, layer)

    async def mute_audio(self, state: bool = True, index: int | str = 0) -> object:
        """Silence, or with false let sound through."""
        return await self.mute(state, index, MuteLayer.Audio)

    async def mute_video(self, state: bool = True, index: int | str = 0) -> object:
        """Blank the picture, or with false show it."""
        return await self.mute(state, index, MuteLayer.Video)


class InputSelection(Interface):
    """Shows one of several inputs. State: `input`. The driver chooses the type of an input."""

    interface_name = f"{NAMESPACE}::InputSelection"

    @abstractmethod
    async def switch_to(self, input: Any) -> object:
        """Show an input, on all outputs."""


@published("Switchable::SwitchLayer")
class SwitchLayer(Enum):
    """Which signals `switch` is about."""

    All = 0
    Audio = 1
    Video = 2
    Data = 3
    Data2 = 4


class Switchable(InputSelection):
    """Connects inputs with outputs. State: `video<output>`, `audio<output>`: the input."""

    interface_name = f"{NAMESPACE}::Switchable"

    @abstractmethod
    async def switch(self, map: Any, layer: SwitchLayer | None = None) -> object:
        """Connect: `map` is input → list of outputs. Without `layer` all signals."""
