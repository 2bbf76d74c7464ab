"""Sign-in: who somebody is, and the tokens that prove it to the other services."""
