"""Threads that work for requests: what they log has the id of the request, as if its task had logged it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import Any


class RequestThreads(ThreadPoolExecutor):
    """A pool that passes on the context of each `submit`, and so of `run_in_executor`, which does not."""

    def submit(self, work: Callable[..., Any], /, *args: Any, **options: Any) -> Future[Any]:
        return super().submit(copy_context().run, work, *args, **options)
