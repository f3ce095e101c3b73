"""EC2 for aws/image/spool_volume.py: one volume, which the previous box has, and one address. And CloudFormation for
aws/image/stack_signal.py, and CloudWatch Logs for aws/image/journal_logs.py."""

from __future__ import annotations

import contextlib
import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from urllib.parse import parse_qs

from tests.acceptance.network import AROUND

EC2_PORT = 5901
VOLUME, INSTANCE, INSTANCE_BEFORE = "vol-0123456789abcdef0", "i-0aaaaaaaaaaaaaaaa", "i-0bbbbbbbbbbbbbbbb"

_ATTACHMENT = "<item><volumeId>{volume}</volumeId><instanceId>{holder}</instanceId><status>attached</status></item>"
_VOLUMES = (
    "<volumeSet><item><volumeId>{volume}</volumeId><status>{state}</status><attachmentSet>{attachments}</attachmentSet>"
    "</item></volumeSet>"
)


@dataclass(slots=True)
class Ec2:
    """The state of the volume. `was_ready` records what `is_ready` returned each time the address moved, `signals` the
    same for each signal to CloudFormation; `logged` has the lines that CloudWatch Logs got."""

    is_ready: Callable[[], bool]
    holder: str | None = INSTANCE_BEFORE
    answer_seconds: float = 0.0
    was_ready: list[bool] = field(default_factory=list)
    signals: list[bool] = field(default_factory=list)
    logged: list[str] = field(default_factory=list)

    def let_go(self) -> None:
        """Releases the volume: the previous box is gone."""
        self.holder = None

    def answer(self, action: str) -> str:
        """The body of the answer to an action."""
        time.sleep(self.answer_seconds)
        content = "<return>true</return>"
        if action == "DescribeVolumes":
            attachments = _ATTACHMENT.format(volume=VOLUME, holder=self.holder) if self.holder else ""
            state = "in-use" if self.holder else "available"
            content = _VOLUMES.format(volume=VOLUME, state=state, attachments=attachments)
        elif action == "AttachVolume":
            self.holder = INSTANCE
            content = f"<volumeId>{VOLUME}</volumeId><status>attaching</status>"
        elif action == "AssociateAddress":
            self.was_ready.append(self.is_ready())
        elif action == "SignalResource":
            self.signals.append(self.is_ready())
        return f"<{action}Response><requestId>x</requestId>{content}</{action}Response>"


@contextlib.contextmanager
def serving(ec2: Ec2) -> Iterator[Ec2]:
    """Serves in the network of this thread."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = self.rfile.read(int(self.headers["Content-Length"])).decode()
            if self.headers.get("X-Amz-Target") == "Logs_20140328.PutLogEvents":
                ec2.logged += [event["message"] for event in json.loads(asked)["logEvents"]]
                body = b"{}"
            else:
                body = ec2.answer(parse_qs(asked)["Action"][0]).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer((AROUND, EC2_PORT), Handler)
    thread = threading.Thread(target=server.serve_forever, name="ec2", daemon=True)
    thread.start()
    try:
        yield ec2
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
