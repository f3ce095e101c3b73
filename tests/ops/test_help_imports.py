"""--help does not wait for slow imports: people use it, and the shell's completion."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PROGRAMS: dict[str, str] = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["scripts"]
SECONDS = 60

# Each of these takes from 20 to 300 ms to import.
HEAVY = {
    *("PIL", "asyncio", "boto3", "botocore", "cv2", "magic", "multiprocessing", "numpy", "prometheus_client", "pycurl"),
    *("redis", "requests", "ssl", "tornado", "tqdm", "urllib3"),
}
# The thumbnail server has options of tornado and pilbox, and pilbox imports these.
NEEDED = {"md5s3stash-thumbnailer": {"PIL", "asyncio", "multiprocessing", "pycurl", "ssl", "tornado"}}


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_imports_nothing_heavy(program: str) -> None:
    module, _, function = PROGRAMS[program].partition(":")
    code = (
        f"import sys\nfrom {module} import {function}\nsys.argv = [{program!r}, '--help']\ntry: {function}()\n"
        f"finally: print(*sorted({HEAVY!r} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=SECONDS, check=False, cwd=REPOSITORY
    )
    assert done.returncode == 0
    assert program in done.stdout
    assert set(done.stderr.split()) <= NEEDED.get(program, set())
