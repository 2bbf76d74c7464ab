"""How modules reach their devices: one file for each transport a driver can declare."""

from placeos.driver.transports.base import Alternatives, Transport, options_of
from placeos.driver.transports.http import HTTP
from placeos.driver.transports.http_message import HTTPError, Request, Response
from placeos.driver.transports.serial import Serial
from placeos.driver.transports.service import Service
from placeos.driver.transports.ssh import SSH
from placeos.driver.transports.tcp import TCP
from placeos.driver.transports.udp import UDP, Datagram
from placeos.driver.transports.websocket import WebSocket

__all__ = [
    "HTTP",
    "SSH",
    "TCP",
    "UDP",
    "Alternatives",
    "Datagram",
    "HTTPError",
    "Request",
    "Response",
    "Serial",
    "Service",
    "Transport",
    "WebSocket",
    "options_of",
]
