# Copyright: the clinicops.orthanc maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The API of the Docker Engine on this machine (Docker's "Engine API"). Standard library only."""

from __future__ import annotations

import http.client
import socket

SOCKET = "/run/docker.sock"


class Engine(http.client.HTTPConnection):
    """HTTP over the socket of the Docker Engine; an answer may take so many seconds."""

    def __init__(self, path: str = SOCKET, seconds: float = 60.0) -> None:
        super().__init__("localhost", timeout=seconds)
        self.path = path

    def connect(self) -> None:
        """Connects to the socket instead of a port."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)
