"""Runs a program and tells what it cost: `launch.py REPORT PROGRAM ARGUMENT...` writes seconds, CPU seconds, peak KiB.

Not in the benchmark's own process: Linux counts the memory of whoever starts a program as the program's, until it is
running, so that nothing would seem smaller than the benchmark. This is as small as a Python can be.
"""

import os
import sys
import time

if __name__ == "__main__":
    report, *command = sys.argv[1:]
    started = time.perf_counter()
    child = os.posix_spawnp(command[0], command, os.environ)
    # wait4 tells what the child used, with all children that it waited for.
    _, status, used = os.wait4(child, 0)
    seconds = time.perf_counter() - started
    with open(report, "w") as file:
        file.write(f"{seconds} {used.ru_utime + used.ru_stime} {used.ru_maxrss}")
    sys.exit(max(os.waitstatus_to_exitcode(status), 0) or bool(status))
