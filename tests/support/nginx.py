"""nginx as a cache in front of a server, as CloudFront is: it keeps what it may, and passes on the path as it came."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support import servers

_CONFIGURATION = """\
{user}
daemon off;
worker_processes 1;
pid {directory}/nginx.pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    proxy_cache_path {directory}/cache keys_zone=pictures:1m;
    {maps}
    server {{
        listen 127.0.0.1:{port};
        {locations}
        location / {{
            # Without a path here, nginx passes on the one of the request, %2F included.
            proxy_pass http://127.0.0.1:{origin};
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Via "1.1 cache";
            proxy_set_header X-Forwarded-For $remote_addr;
            proxy_cache pictures;
            proxy_cache_key $request_uri;
            add_header X-Cache $upstream_cache_status always;
        }}
    }}
}}
"""


@contextmanager
def nginx_before(origin: int, directory: Path, locations: str = "", maps: str = "") -> Iterator[int]:
    """The port of an nginx in front of the port `origin`, with further locations, and maps for them."""
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    assert program is not None, "tools/bootstrap --tests installs nginx"
    directory.mkdir(parents=True, exist_ok=True)
    port = servers.free_port()
    # As root, its worker would otherwise be another user, who cannot read the directory of the test.
    user = "user root;" if os.geteuid() == 0 else ""
    configuration = directory / "nginx.conf"
    configuration.write_text(
        _CONFIGURATION.format(user=user, directory=directory, port=port, origin=origin, locations=locations, maps=maps)
    )
    arguments = [program, "-p", str(directory), "-e", "stderr", "-c", str(configuration)]
    with servers.running(arguments, port, directory / "nginx.log"):
        yield port
