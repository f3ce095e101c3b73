"""The id of a request: in its answer, and in each line of the log about it.

CloudFront and load balancers send one. It is a stranger's text, so it counts only if it is short and harmless in a line
of the log; otherwise the request gets one of ours.
"""

from __future__ import annotations

import logging
import re
import secrets
from contextvars import ContextVar

from tornado.httputil import HTTPServerRequest

HEADER = "X-Request-Id"
# In the order of preference. CloudFront passes no X-Request-Id of a viewer on, unless it is told to.
_SENT_BY_PROXIES = (HEADER, "X-Amz-Cf-Id", "X-Amzn-Trace-Id")
_HARMLESS = re.compile(r"[A-Za-z0-9._:;=+/@-]{1,128}")
_current: ContextVar[str] = ContextVar("request_id", default="")


def begin(request: HTTPServerRequest) -> str:
    """The id of the request. What this task and those that it starts log from now on has it too."""
    sent = (request.headers.get(name, "") for name in _SENT_BY_PROXIES)
    found = next((text for text in sent if _HARMLESS.fullmatch(text)), "") or secrets.token_hex(8)
    # An answer that is begun again, with an error, has the same id.
    request.headers[HEADER] = found
    _current.set(found)
    return found


def end() -> None:
    """The connection waits for its next request, which may be too broken to get an id."""
    _current.set("")


def name_requests_in_the_log() -> None:
    """Adds the id to each line that is logged for a request."""
    for handler in logging.getLogger().handlers:
        handler.addFilter(_name_request)


def _name_request(record: logging.LogRecord) -> bool:
    # Each handler has the filter, and a record has one text for all of them. The id has no percent sign.
    current = _current.get()
    if current and isinstance(record.msg, str) and f"request={current} " not in record.msg:
        event, space, rest = record.msg.partition(" ") if record.msg.startswith("event=") else ("", "", record.msg)
        record.msg = f"{event}{space}request={current} {rest}"
    return True
