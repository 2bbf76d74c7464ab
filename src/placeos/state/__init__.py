"""Redis: live state, lookups, channels. Readers look again; nothing here is told only once."""
