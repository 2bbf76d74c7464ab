"""`python -m placeos.core`: run one core."""

from placeos.core.service import main
from placeos.service import run

if __name__ == "__main__":
    run("core", main)
