"""`python -m placeos.api`"""

from placeos.api.service import main
from placeos.service import run

run("api", main)
