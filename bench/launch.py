"""Runs a program and measures its cost: `launch.py REPORT PROGRAM ARGUMENT...` writes seconds, CPU seconds, peak KiB.

This is a separate, minimal process: until a started program runs, Linux counts its parent's memory as its own, so no
program would seem smaller than the benchmark.
"""

import os
import sys
import time

if __name__ == "__main__":
    report, *command = sys.argv[1:]
    started = time.perf_counter()
    child = os.posix_spawnp(command[0], command, os.environ)
    # wait4 returns the usage of the child, including the children that it waited for.
    _, status, used = os.wait4(child, 0)
    seconds = time.perf_counter() - started
    with open(report, "w") as file:
        file.write(f"{seconds} {used.ru_utime + used.ru_stime} {used.ru_maxrss}")
    sys.exit(max(os.waitstatus_to_exitcode(status), 0) or bool(status))
