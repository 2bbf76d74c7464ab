"""PlaceOS: the platform that runs the technology of buildings."""

__version__ = "0.1.0"
