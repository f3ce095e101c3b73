"""Starts another program in a room: it reads its libraries, the files that it is given open, and no other.

The program may not connect, open a file to write, signal, or start a process; it may start threads, and itself again.
What it writes goes to the pipes that it is given. A new interpreter without site-packages seals itself and becomes the
program: code between fork and exec would be unsafe in a server with threads. Only the standard library is imported.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Sequence
from pathlib import Path

# The libraries of Debian and of other distributions, and how the loader finds them.
_READABLE = ("/usr/lib", "/usr/lib64", "/lib", "/lib64", "/usr/local/lib", "/etc/ld.so.cache")
# Nothing of it is secret, and libraries read from it how many processors there are.
_ALSO_READABLE = ("/sys/devices/system/cpu", "/dev/null")
_STANDARD = (0, 1, 2)


def sealed_command(command: Sequence[str], *, pass_fds: Collection[int] = ()) -> list[str]:
    """The command line of a program, named by its full path, in a room. Give subprocess the same `pass_fds`, and an
    environment without secrets (`process.small_environment`). The program may open them again, as `/proc/self/fd/N`,
    which can be necessary to seek.
    """
    numbers = ",".join(str(number) for number in sorted(pass_fds))
    return [sys.executable, "-I", "-S", str(Path(__file__)), numbers, *command]


def main(numbers: str, *command: str) -> None:
    """Becomes the program."""
    from md5s3stash.sealed.process import seal_for_command

    keep = {*_STANDARD, *(int(number) for number in numbers.split(",") if number)}
    given = [f"/proc/self/fd/{number}" for number in (0, *keep.difference(_STANDARD))]
    # Where links lead must be known before.
    program = os.path.realpath(command[0])
    seal_for_command(keep, (*_READABLE, *_ALSO_READABLE, *given, program))
    os.execv(program, command)


if __name__ == "__main__":
    # With -I, neither the current directory nor this one is searched.
    sys.path.append(str(Path(__file__).parents[2]))
    main(*sys.argv[1:])
