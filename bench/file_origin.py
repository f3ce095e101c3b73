"""A web server of originals for plain pilbox: python bench/file_origin.py PORT DIRECTORY

The kernel sends the files, so that this server takes little CPU from the measured one.
"""

from __future__ import annotations

import functools
import http.server
import sys
from typing import Any


class FileHandler(http.server.SimpleHTTPRequestHandler):
    """Sends files by sendfile(2), without a log."""

    protocol_version = "HTTP/1.1"

    def copyfile(self, source: Any, outputfile: Any) -> None:
        outputfile.flush()
        self.connection.sendfile(source)

    def log_message(self, format: str, *args: Any) -> None:
        pass


if __name__ == "__main__":
    port, directory = sys.argv[1:]
    handler = functools.partial(FileHandler, directory=directory)
    http.server.ThreadingHTTPServer(("127.0.0.1", int(port)), handler).serve_forever()
