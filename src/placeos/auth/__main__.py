"""`python -m placeos.auth`: the auth service, configured by the environment."""

from placeos import service
from placeos.auth.service import main

service.run("auth", main)
