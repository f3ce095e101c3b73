"""A progress bar on a terminal, nothing anywhere else."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, TextIO

# What is over sooner than this needs no bar.
_DELAY_SECONDS = 0.5
_USUAL_COLUMNS = 80


class Display(Protocol):
    """Told of bytes and sources as they are done, from any thread."""

    def bytes_done(self, count: int) -> None: ...

    def source_done(self) -> None: ...

    def paused(self) -> contextlib.AbstractContextManager[None]:
        """Out of the way while a line is printed."""
        ...


class NoDisplay:
    """For output that nobody watches."""

    def bytes_done(self, count: int) -> None:
        pass

    def source_done(self) -> None:
        pass

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        yield


class _Bar:
    def __init__(self, bar: Any) -> None:
        self._bar = bar
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        with self._lock:
            # Its end draws the bar anew, which must not bring up one that is still waiting for its delay.
            shown = self._bar.last_print_t > self._bar.start_t
            with self._bar.external_write_mode(file=self._bar.fp) if shown else contextlib.nullcontext():
                yield


class _ByteBar(_Bar):
    """One source: the bytes that were read and sent."""

    def bytes_done(self, count: int) -> None:
        with self._lock:
            self._bar.update(count)

    def source_done(self) -> None:
        pass


class _SourceBar(_Bar):
    """A list: the sources that are done, and how much went by."""

    def __init__(self, bar: Any) -> None:
        super().__init__(bar)
        self._bytes = 0

    def bytes_done(self, count: int) -> None:
        with self._lock:
            self._bytes += count
            self._bar.set_postfix_str(f"{self._bytes / 1e6:,.0f} MB read and sent", refresh=False)
            self._bar.update(0)

    def source_done(self) -> None:
        with self._lock:
            self._bar.update(1)


@contextlib.contextmanager
def progress_display(names: Sequence[str], stream: TextIO) -> Iterator[Display]:
    """The display for a run over these arguments, on this stream if it is a terminal."""
    if not stream.isatty():
        yield NoDisplay()
        return
    from tqdm import tqdm

    # A terminal that does not know its width (a serial console, an expect script) says 0, and tqdm then shows nothing.
    width = os.get_terminal_size(stream.fileno()).columns
    common = {"file": stream, "delay": _DELAY_SECONDS, "leave": False, "ncols": None if width else _USUAL_COLUMNS}
    if len(names) == 1 and names[0] != "-":
        # Each byte goes by twice: once to be hashed, once to be sent.
        total = 2 * os.path.getsize(names[0]) if os.path.isfile(names[0]) else None
        with tqdm(total=total, unit="B", unit_scale=True, **common) as bar:
            yield _ByteBar(bar)
        return
    with tqdm(total=None if "-" in names else len(names), unit=" files", **common) as bar:
        yield _SourceBar(bar)
