"""`python -m placeos.core`: run one core."""

from placeos.core.main import main
from placeos.service import run

if __name__ == "__main__":
    run("core", main)
