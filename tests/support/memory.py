"""What a piece of code allocates, measured in a process of its own: no other thread of the test run is counted."""

from __future__ import annotations

import multiprocessing
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def peak_bytes(do: Callable[..., T], *arguments: object) -> tuple[T, int]:
    """The result of a function of a module, called in a new process, and the most bytes Python held for it at once."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(_measured, do, arguments).result(timeout=120)


def _measured(do: Callable[..., T], arguments: tuple[object, ...]) -> tuple[T, int]:
    tracemalloc.start()
    result = do(*arguments)
    return result, tracemalloc.get_traced_memory()[1]
