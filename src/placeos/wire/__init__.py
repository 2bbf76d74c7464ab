"""Frames and messages between services, and between core and its driver processes."""
