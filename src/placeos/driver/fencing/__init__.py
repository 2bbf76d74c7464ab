"""Fencing: no core writes to a device once others may have taken its place."""
