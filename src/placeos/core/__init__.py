"""Core: runs modules. Desired state from the configuration, actual state from its processes."""
