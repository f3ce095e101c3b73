"""Commands that must work outside the environment of the tests."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

_SECONDS = 600


def run(*command: str | Path) -> str:
    """The output of the command. If it fails, its output is the message of the test's failure."""
    # The tests' own packages must not stand in for those of the environment under test.
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        command,
        cwd="/",
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_SECONDS,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout
