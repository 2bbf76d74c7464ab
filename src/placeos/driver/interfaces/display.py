"""Displays, projectors, switchers, amplifiers: power, mute, inputs."""

from __future__ import annotations

from abc import abstractmethod
from enum import Enum
from typing import Any

from placeos.driver.interfaces.base import NAMESPACE, Index, Interface, outcome, published


@published("Powerable::PowerState")
class PowerState(Enum):
    """What `power_state` takes."""

    On = 0
    Off = 1
    FullOff = 2


class Powerable(Interface):
    """Can be switched on and off."""

    interface_name = f"{NAMESPACE}::Powerable"
    state_keys = {"power": "whether it is on"}

    @abstractmethod
    async def power(self, state: bool) -> object:
        """Switch on or off."""

    async def power_state(self, state: PowerState) -> object:
        """Switch on or off; not every device knows a full off."""
        return await outcome(self.power(state is PowerState.On))


class AudioMuteable(Interface):
    """Can be silenced."""

    interface_name = f"{NAMESPACE}::AudioMuteable"
    state_keys = {"audio_mute": "whether it is silent"}
    optional_state_keys = {"mute<index>_audio": "the same for one of several outputs"}

    @abstractmethod
    async def mute_audio(self, state: bool = True, index: Index = 0) -> object:
        """Silence, or with false let sound through."""

    async def unmute_audio(self, index: Index = 0) -> object:
        """Let sound through."""
        return await outcome(self.mute_audio(False, index))


class VideoMuteable(Interface):
    """Can be blanked."""

    interface_name = f"{NAMESPACE}::VideoMuteable"
    state_keys = {"mute0_video": "whether the picture is blank"}
    optional_state_keys = {
        "mute<index>_video": "the same for one of several outputs",
        "video_mute": "the same under the name that goes with `audio_mute`",
    }

    @abstractmethod
    async def mute_video(self, state: bool = True, index: Index = 0) -> object:
        """Blank the picture, or with false show it."""

    async def unmute_video(self, index: Index = 0) -> object:
        """Show the picture."""
        return await outcome(self.mute_video(False, index))


@published("Muteable::MuteLayer")
class MuteLayer(Enum):
    """What a mute is about."""

    Audio = 0
    Video = 1
    AudioVideo = 2


class Muteable(VideoMuteable, AudioMuteable):
    """Picture and sound can be muted, apart or together."""

    interface_name = f"{NAMESPACE}::Muteable"
    state_keys = {"mute": "whether picture and sound are muted"}
    optional_state_keys = {"mute<index>": "the same for one of several outputs"}

    @abstractmethod
    async def mute(
        self,
        state: bool = True,
        index: Index = 0,
        layer: MuteLayer = MuteLayer.AudioVideo,
    ) -> object:
        """Mute, or with false unmute."""

    async def unmute(self, index: Index = 0, layer: MuteLayer = MuteLayer.AudioVideo) -> object:
        """Unmute."""
        return await outcome(self.mute(False, index, layer))

    async def mute_audio(self, state: bool = True, index: Index = 0) -> object:
        """Silence, or with false let sound through."""
        return await outcome(self.mute(state, index, MuteLayer.Audio))

    async def mute_video(self, state: bool = True, index: Index = 0) -> object:
        """Blank the picture, or with false show it."""
        return await outcome(self.mute(state, index, MuteLayer.Video))


class InputSelection(Interface):
    """Shows one of several inputs. The driver chooses the type of an input."""

    interface_name = f"{NAMESPACE}::InputSelection"
    state_keys = {"input": "the input that is shown"}

    @abstractmethod
    async def switch_to(self, input: Any) -> object:
        """Show an input, on all outputs. Where the device can, 0 shows none."""


@published("Switchable::SwitchLayer")
class SwitchLayer(Enum):
    """Which signals `switch` is about."""

    All = 0
    Audio = 1
    Video = 2
    Data = 3
    Data2 = 4


class Switchable(InputSelection):
    """Connects inputs with outputs. The driver chooses the types of inputs and outputs."""

    interface_name = f"{NAMESPACE}::Switchable"
    optional_state_keys = {
        "video<output>": "the input whose picture an output shows",
        "audio<output>": "the input whose sound an output gives",
        "output<output>": "the input of an output, where picture and sound go together",
    }

    @abstractmethod
    async def switch(self, map: Any, layer: SwitchLayer | None = None) -> object:
        """Connect: `map` is input → list of outputs. Without `layer` all signals."""


class StandbyImage(Interface):
    """Shows a picture of one's own while nothing else is shown."""

    interface_name = f"{NAMESPACE}::StandbyImage"

    @abstractmethod
    async def set_background_image(self, url: str, output_index: int | None = None) -> object:
        """Fetch the picture from `url` and show it, on one output or on all."""
