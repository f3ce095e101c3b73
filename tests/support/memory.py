"""Measures what a piece of code allocates, in a separate process: other threads of the test run do not count."""

from __future__ import annotations

import multiprocessing
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def peak_bytes(do: Callable[..., T], *arguments: object) -> tuple[T, int]:
    """Calls a module's function in a new process; returns its result and Python's peak of allocated bytes."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(_measured, do, arguments).result(timeout=120)


def _measured(do: Callable[..., T], arguments: tuple[object, ...]) -> tuple[T, int]:
    tracemalloc.start()
    result = do(*arguments)
    return result, tracemalloc.get_traced_memory()[1]
