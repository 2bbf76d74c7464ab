"""`python -m placeos.cli`."""

from placeos.cli import main

main()
