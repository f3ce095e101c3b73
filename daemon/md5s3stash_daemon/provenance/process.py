"""The collector's process: at the lowest priority, and ended by the kernel with the daemon. It holds no state that
could be lost, so the daemon starts another when it ends.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from md5s3stash import console
from md5s3stash.logs import set_up_logging
from md5s3stash.settings import RedisSettings, StashSettings
from md5s3stash_daemon.config.load import read_settings, redis_client
from md5s3stash_daemon.config.settings import LogSettings, ProvenanceSettings
from md5s3stash_daemon.provenance.collector import Collector
from md5s3stash_daemon.provenance.index import Index
from md5s3stash_daemon.provenance.snapshots import snapshots_of
from md5s3stash_daemon.runtime.helper_process import end_with, keep_running, lower_priority
from md5s3stash_daemon.runtime.log_format import set_line_format


def keep_collecting(config: Path | None, box: str, stopping: threading.Event) -> None:
    """Runs the collector in a process of its own until `stopping` is set."""
    arguments = [box, str(os.getpid()), *([str(config)] if config else [])]
    keep_running("provenance collector", __name__, arguments, stopping)


def main(arguments: Sequence[str]) -> int:
    """Collects until SIGTERM or SIGINT. `arguments`: the box, the daemon's process id and perhaps its settings file."""
    box, daemon, *config = arguments
    return console.run("md5s3stashd provenance", lambda: _run(box, int(daemon), Path(config[0]) if config else None))


def _run(box: str, daemon: int, config: Path | None) -> int:
    stopping = end_with(daemon)
    if stopping is None:
        return 0
    settings = read_settings(os.environ, config)
    set_up_logging(logging.getLevelNamesMapping()[settings[LogSettings].level])
    set_line_format(os.environ, sys.stderr.fileno())
    index = settings[ProvenanceSettings].index
    assert index is not None, "the daemon starts the collector only with an index"
    with closing(Index.create(index)) as opened:
        snapshots = snapshots_of(settings)
        opened.track_copies(snapshots is not None)
        base = settings[StashSettings].bases()[0]
        collector = Collector(redis_client(settings), settings[RedisSettings].prefix, opened, box, snapshots, base)
        lower_priority()
        collector.run(stopping)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
