"""The demo building: simulated devices on real sockets, and the records that describe it."""
