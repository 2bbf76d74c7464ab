"""The walls a driver process puts up around itself, by the kernel's own means."""
