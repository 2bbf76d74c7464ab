"""Where driver files come from: folders and git repositories, their versions and contents."""
