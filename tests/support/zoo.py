"""Random producers of every kind, which treat files as programs do, and note what they were promised."""

from __future__ import annotations

import contextlib
import mmap
import os
import random
import signal
import subprocess
import tarfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.daemon import Site
from tests.support.promises import Promises
from tests.support.strangers import as_producer

SFTP_SERVER = "/usr/lib/openssh/sftp-server"
# Longer than a file takes to settle (tests.support.daemon.QUICK).
STALL_SECONDS = (0.6, 1.5)
PAUSES_SECONDS = (0.0, 0.0, 0.02, 0.1, 0.4)
PROGRAM_SECONDS = 200

# One in this many records is larger than what the daemon hashes in memory.
_LARGE_ONE_IN = 150
_LARGE_BYTES = 9_000_000


@dataclass
class Descriptor:
    """A descriptor open for writing, and the records written by it; None once their file was replaced."""

    number: int
    written: list[int] | None = field(default_factory=list)


class Life:
    """The life of one file: random steps until its producer is done. Used by one thread only."""

    def __init__(self, site: Site, promises: Promises, dice: random.Random, label: str) -> None:
        self._site = site
        self._promises = promises
        self._dice = dice
        self._label = label
        self._names = 0
        self._folder = site.incoming / f"{label}-folder" if dice.random() < 0.5 else site.incoming
        self._paths = [self._new_name()]
        self._open: list[Descriptor] = []
        self._promised: list[int] = []
        self._story: list[str] = []

    def live(self, ends: float) -> None:
        steps, weights = zip(*STEPS, strict=True)
        try:
            self._folder.mkdir(exist_ok=True)
            self._do(Life.open_to_append)
            for step in self._dice.choices(steps, weights, k=self._dice.randint(2, 12)):
                if time.monotonic() > ends:
                    return
                # So that the daemon sometimes takes the file between two steps.
                time.sleep(self._dice.choice(PAUSES_SECONDS))
                self._do(step)
        finally:
            while self._open:
                self._do(Life.close)

    def _do(self, step: Callable[[Life], object]) -> None:
        name = step.__name__
        self._tell(name)
        try:
            step(self)
            self._promises.count(name)
        except OSError as error:
            # Already taken, or its folder was replaced: nothing more is promised.
            self._promises.count(name, error)
            self._tell(f"{name} refused: {error}")

    def open_to_append(self) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        self._open.append(Descriptor(os.open(self._a_path(), flags, 0o666)))

    def write(self) -> None:
        if self._open:
            self._write(self._dice.choice(self._open))

    def write_half_stall_write(self) -> None:
        if self._open:
            self._write(self._dice.choice(self._open), stalls=True)

    def stall(self) -> None:
        time.sleep(self._dice.uniform(*STALL_SECONDS))

    def close(self) -> None:
        if self._open:
            descriptor = self._open.pop(self._dice.randrange(len(self._open)))
            os.close(descriptor.number)
            self._keep(descriptor)

    def append_and_close(self) -> None:
        self.open_to_append()
        self._write(self._open[-1])
        self._close_last()

    def map_write_unmap(self) -> None:
        """Closes the descriptor before it writes to the map."""
        number, record = self._promises.new_record(self._dice.randint(1, 5000))
        with open(os.open(self._a_path(), os.O_RDWR | os.O_CREAT, 0o666), "r+b", buffering=0) as file:
            end = file.seek(0, os.SEEK_END)
            file.truncate(end + len(record))
            memory = mmap.mmap(file.fileno(), 0)
        with memory:
            if self._dice.random() < 0.3:
                self.stall()
            memory[end : end + len(record)] = record
        self._keep(Descriptor(-1, [number]))

    def cut_and_rewrite(self) -> None:
        descriptor = os.open(self._a_path(), os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_TRUNC, 0o666)
        self._forgive()
        for other in self._open:
            other.written = other.written and []
        self._open.append(Descriptor(descriptor))
        self._write(self._open[-1], stalls=self._dice.random() < 0.2)
        self._close_last()

    def replace(self) -> None:
        """Renames a new file over the name; sometimes closes it only afterwards."""
        path = self._a_path()
        temporary = path.with_name(f".{path.name}.new")
        new = Descriptor(os.open(temporary, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666))
        self._write(new)
        closes_late = self._dice.random() < 0.3
        try:
            if not closes_late:
                os.close(new.number)
                self._keep(new)
            # The producer itself removes the records of the file that it may replace.
            self._forgive(but=new)
            temporary.rename(path)
            for other in self._open:
                other.written = None
        finally:
            if closes_late:
                self._open.append(new)
                self._close_last()

    def link(self) -> None:
        path = self._new_name()
        os.link(self._a_path(), path)
        self._paths.append(path)

    def append_by_another_name(self) -> None:
        """Appends by a second name that the daemon ignores, while the file still has a name in the spool."""
        while self._open:
            self.close()
        self._names += 1
        hidden = self._folder / f".{self._label}-{self._names}"
        os.link(self._a_path(), hidden)
        time.sleep(self._dice.uniform(0.0, 0.3))
        self._open.append(Descriptor(os.open(hidden, os.O_WRONLY | os.O_APPEND)))
        self._write(self._open[-1])
        self._close_last()
        if hidden.stat().st_nlink > 1:
            hidden.unlink()

    def rename(self) -> None:
        old, new = self._a_path(), self._new_name()
        old.rename(new)
        self._paths[self._paths.index(old)] = new

    def rename_folder(self) -> None:
        if self._folder == self._site.incoming:
            return
        self._names += 1
        new = self._site.incoming / f"{self._label}-folder-{self._names}"
        self._folder.rename(new)
        self._paths = [new / path.name if path.parent == self._folder else path for path in self._paths]
        self._folder = new

    def unnamed_then_linked(self) -> None:
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            number = os.open(".", os.O_TMPFILE | os.O_WRONLY | os.O_APPEND, 0o666, dir_fd=folder)
            self._open.append(Descriptor(number))
            self._write(self._open[-1])
            path = self._new_name()
            os.link(f"/proc/self/fd/{number}", path.name, src_dir_fd=folder, dst_dir_fd=folder)
            self._paths.append(path)
        except OSError:
            # A file without a name is not the daemon's.
            os.close(self._open.pop().number)
            raise
        finally:
            os.close(folder)

    def set_time(self) -> None:
        stamp = self._dice.choice((0, 1_000_000_000, 4_000_000_000))
        os.utime(self._a_path(), (stamp, stamp))

    def set_mode(self) -> None:
        self._a_path().chmod(self._dice.choice((0o600, 0o640, 0o644, 0o664, 0o666)))

    def _close_last(self) -> None:
        descriptor = self._open.pop()
        os.close(descriptor.number)
        self._keep(descriptor)

    def _write(self, descriptor: Descriptor, *, stalls: bool = False) -> None:
        large = self._dice.randrange(_LARGE_ONE_IN) == 0
        number, record = self._promises.new_record(_LARGE_BYTES if large else self._dice.randint(1, 5000))
        parts = (record[: len(record) // 2], record[len(record) // 2 :]) if stalls else (record,)
        for part in parts:
            if part is not parts[0]:
                self.stall()
            _write_all(descriptor.number, part)
        if descriptor.written is not None:
            descriptor.written.append(number)

    def _keep(self, descriptor: Descriptor) -> None:
        if descriptor.written:
            self._tell(f"closed {descriptor.written}")
            self._promises.make(descriptor.written, self._story)
            self._promised += descriptor.written

    def _forgive(self, but: Descriptor | None = None) -> None:
        kept = (but.written if but is not None else None) or []
        self._promises.take_back(number for number in self._promised if number not in kept)
        self._promised = [number for number in self._promised if number in kept]

    def _a_path(self) -> Path:
        return self._dice.choice(self._paths)

    def _new_name(self) -> Path:
        self._names += 1
        return self._folder / f"{self._label}-{self._names}.bin"

    def _tell(self, what: str) -> None:
        self._story.append(f"{time.strftime('%H:%M:%S')}.{time.time_ns() // 1_000_000 % 1000:03} {self._label} {what}")


# With the weight of each.
STEPS: tuple[tuple[Callable[[Life], object], int], ...] = (
    (Life.open_to_append, 3),
    (Life.write, 8),
    (Life.write_half_stall_write, 1),
    (Life.stall, 2),
    (Life.close, 8),
    (Life.append_and_close, 8),
    (Life.map_write_unmap, 3),
    (Life.cut_and_rewrite, 3),
    (Life.replace, 3),
    (Life.link, 2),
    (Life.append_by_another_name, 5),
    (Life.rename, 2),
    (Life.rename_folder, 2),
    (Life.unnamed_then_linked, 2),
    (Life.set_time, 1),
    (Life.set_mode, 1),
)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def sftp(site: Site, source: Path, target: Path) -> list[str | Path]:
    batch = source.with_name("batch")
    batch.write_text(f"put -r {source} {target}\n")
    return ["sftp", "-q", "-D", SFTP_SERVER, "-b", batch]


def scp(site: Site, source: Path, target: Path) -> list[str | Path]:
    return ["scp", "-q", "-r", "-s", "-D", SFTP_SERVER, source, f"box:{target}"]


def rsync(site: Site, source: Path, target: Path) -> list[str | Path]:
    return ["rsync", "--archive", source, f"{target.parent}/"]


def rsync_in_place(site: Site, source: Path, target: Path) -> list[str | Path]:
    return ["rsync", "--recursive", "--inplace", source, f"{target.parent}/"]


def cp(site: Site, source: Path, target: Path) -> list[str | Path]:
    return ["cp", "--archive", source, target]


def tar(site: Site, source: Path, target: Path) -> list[str | Path]:
    archive = source.with_name("archive.tar")
    with tarfile.open(archive, "w") as file:
        file.add(source, source.name)
    return ["tar", "--extract", "--directory", target.parent, "--file", archive]


PROGRAMS = (sftp, scp, rsync, rsync_in_place, cp, tar)


def run_a_program(site: Site, promises: Promises, dice: random.Random, label: str) -> None:
    """A program copies a folder of files; it may be paused on the way."""
    program = dice.choice(PROGRAMS)
    source = site.directory / "sources" / label / f"{label}-album"
    source.mkdir(parents=True)
    numbers = []
    for file in range(dice.randint(1, 5)):
        large = dice.randrange(20) == 0
        number, record = promises.new_record(_LARGE_BYTES if large else dice.randint(1, 50_000))
        (source / f"{file}.bin").write_bytes(record)
        numbers.append(number)
    command = as_producer(
        site, *program(site, source, site.incoming / source.name), umask=dice.choice((0o002, 0o022, 0o077))
    )
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as ours:
        try:
            if dice.random() < 0.5:
                time.sleep(dice.uniform(0.0, 0.2))
                ours.send_signal(signal.SIGSTOP)
                time.sleep(dice.uniform(*STALL_SECONDS))
                ours.send_signal(signal.SIGCONT)
            said, _ = ours.communicate(timeout=PROGRAM_SECONDS)
        finally:
            ours.kill()
    name = program.__name__
    if ours.returncode == 0:
        promises.make(numbers, [f"{time.strftime('%H:%M:%S')} {label} {name} ended with 0: {numbers}"])
        promises.count(name)
    else:
        # rsync sets the mode after the close, when the file may already be taken; and the daemon may remove a new empty
        # folder before a file is in it. The programs report this, and are run again.
        promises.count(name, OSError(ours.returncode, said.decode(errors="replace")[-200:]))


def keep_animals(site: Site, promises: Promises, seed: int, ends: float) -> None:
    """Runs one producer until `ends`."""
    dice = random.Random(seed)
    lives = 0
    while time.monotonic() < ends:
        lives += 1
        label = f"p{seed % 1000}-{lives}"
        if dice.random() < 0.1:
            run_a_program(site, promises, dice, label)
        else:
            with contextlib.suppress(FileNotFoundError):
                Life(site, promises, dice, label).live(ends)
        time.sleep(dice.uniform(0.0, 0.05))
