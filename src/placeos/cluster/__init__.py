"""etcd: membership, views, ownership, and the way to the core that owns a module."""
