"""What a building is: entities and their rules. Pure: no I/O, no await."""
