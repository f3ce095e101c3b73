"""A progress bar on a terminal. Elsewhere nothing, or a line a minute for programs that run for hours."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TextIO

# A run shorter than this shows no bar.
_DELAY_SECONDS = 0.5
_USUAL_COLUMNS = 80

_BAR_SECONDS = 0.5
LINE_SECONDS = 60.0


class Display(Protocol):
    """Shows progress; its methods may be called from any thread."""

    def bytes_done(self, count: int) -> None: ...

    def source_done(self) -> None: ...

    def paused(self) -> contextlib.AbstractContextManager[None]:
        """Hides the bar while a line is printed."""
        ...


class NoDisplay:
    """For output that is not a terminal."""

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
            # external_write_mode redraws the bar at its end, even one whose delay is not over.
            shown = self._bar.last_print_t > self._bar.start_t
            with self._bar.external_write_mode(file=self._bar.fp) if shown else contextlib.nullcontext():
                yield

    def move_to(self, state: ProgressState) -> None:
        with self._lock:
            self._bar.total = round(state.done / state.fraction) if state.fraction else None
            self._bar.set_postfix_str(state.note, refresh=False)
            # A second pass starts from 0.
            if state.done < self._bar.n:
                self._bar.reset(self._bar.total)
            self._bar.update(state.done - self._bar.n)
            self._bar.refresh()


class _ByteBar(_Bar):
    """One source: the bytes that were read and sent."""

    def bytes_done(self, count: int) -> None:
        with self._lock:
            self._bar.update(count)

    def source_done(self) -> None:
        pass


class _SourceBar(_Bar):
    """A list: the sources that are done, and the bytes read and sent."""

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

    common = {"file": stream, "delay": _DELAY_SECONDS, "leave": False, "ncols": _columns(stream)}
    if len(names) == 1 and names[0] != "-":
        # Each byte counts twice: once when it is hashed, once when it is sent.
        total = 2 * os.path.getsize(names[0]) if os.path.isfile(names[0]) else None
        with tqdm(total=total, unit="B", unit_scale=True, **common) as bar:
            yield _ByteBar(bar)
        return
    with tqdm(total=None if "-" in names else len(names), unit=" files", **common) as bar:
        yield _SourceBar(bar)


@dataclass(frozen=True, slots=True)
class ProgressState:
    """Progress of a long run: the objects done, their share of all (0 to 1), and a note."""

    done: int
    fraction: float
    note: str


@contextlib.contextmanager
def state_display(
    look: Callable[[], ProgressState], stream: TextIO, line_seconds: float = LINE_SECONDS, unit: str = "objects"
) -> Iterator[Pause]:
    """Shows what `look` returns: as a bar with rate and time left on a terminal, else as a line every `line_seconds`.

    Yields a function whose context hides the bar while other lines are printed.
    """
    if stream.isatty():
        from tqdm import tqdm

        with tqdm(unit=f" {unit}", file=stream, leave=False, ncols=_columns(stream)) as bar:
            shown = _Bar(bar)
            with _every(_BAR_SECONDS, lambda: shown.move_to(look())):
                yield shown.paused
        return
    began = time.monotonic()
    with _every(line_seconds, lambda: print(as_line(look(), time.monotonic() - began, unit), file=stream, flush=True)):
        yield contextlib.nullcontext


Pause = Callable[[], contextlib.AbstractContextManager[None]]


def as_line(state: ProgressState, seconds: float, unit: str = "objects") -> str:
    """The state after this number of seconds, with the rate and the time left."""
    rate = state.done / seconds if seconds > 0 else 0.0
    left = f", {seconds * (1 - state.fraction) / state.fraction / 60:,.0f} min left" if state.fraction else ""
    return f"{state.done:,} {unit}, {state.fraction:.0%}, {rate:,.0f} a second{left}; {state.note}"


@contextlib.contextmanager
def _every(seconds: float, show: Callable[[], None]) -> Iterator[None]:
    stopping = threading.Event()

    def run() -> None:
        while not stopping.wait(seconds):
            # The stream may be closed; the work continues.
            with contextlib.suppress(OSError, ValueError):
                show()

    thread = threading.Thread(target=run, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()


def _columns(stream: TextIO) -> int | None:
    # A terminal that does not know its width (a serial console, an expect script) reports 0, and tqdm then shows
    # nothing.
    return None if os.get_terminal_size(stream.fileno()).columns else _USUAL_COLUMNS
