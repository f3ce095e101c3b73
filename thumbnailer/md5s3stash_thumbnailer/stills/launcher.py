"""Bounds and seals the process that it runs in, and becomes ffmpeg in it:
`launcher.py PATH CPU_SECONDS MEMORY_BYTES FILE_BYTES PROGRAM ...`, where PATH is where the core is found.

A file of its own, run without site-packages, which takes a third of the time: the server has threads, so nothing may
run between a fork of it and the exec.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from contextlib import suppress

_PR_SET_PDEATHSIG = 1
# As the render workers (workers/).
_NICENESS, _OOM_SCORE = 10, "500"


def main(arguments: list[str]) -> None:
    path, *limits = arguments[:4]
    cpu_seconds, memory_bytes, file_bytes = map(int, limits)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # ffmpeg would end as if the file were damaged. It has its own limits, and SIGKILL ends it with the server.
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGHUP, signal.SIGINT, signal.SIGTERM))
    os.nice(_NICENESS)
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
        score.write(_OOM_SCORE)
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds + 1))
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
    sys.path.append(path)
    from md5s3stash.sealed import command

    command.main("", *arguments[4:])


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except Exception as error:
        # As a shell says that it cannot start a program.
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(127)
