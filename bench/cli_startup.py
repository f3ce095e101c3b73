"""Measures the start-up cost of the commands, and `md5s3stash` with a single small file.

python -m bench.cli_startup --rounds 15
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import page, stack
from bench.jpeg_files import make_files
from bench.timing import Command, Cost, Rounds, in_rounds, timed
from bench.upload_peers import Job, Peer, aws, s5cmd
from bench.uploads import installed

# The scripts of pyproject.toml.
PROGRAMS = (
    "md5s3stash",
    "md5s3stashd",
    "md5s3stashctl",
    "md5s3stash-enqueue",
    "md5s3stash-migrate",
    "md5s3stash-thumbnailer",
)
HELPS = tuple(f"{program} --help" for program in PROGRAMS)
STASH = "md5s3stash FILE"
PEERS = (aws("aws s3 cp FILE", "cp", "--recursive"), s5cmd("s5cmd cp FILE", "cp"))


@dataclass(frozen=True, slots=True)
class Plan:
    rounds: int = 15


def measure(plan: Plan, peers: Sequence[Peer] = PEERS) -> tuple[Rounds, dict[str, str]]:
    """All rows, in interleaved rounds. Each upload uses a new bucket, because known content is cheaper."""
    versions, missing = installed(peers)
    home = Path(sys.executable).parent
    numbers = itertools.count()
    with stack.workspace() as directory, stack.sink(directory) as sink:
        source = directory / "files"
        make_files(source, 1)
        (file,) = source.iterdir()

        def ours(*words: str) -> Callable[[], Cost]:
            def run() -> Cost:
                environment = {**sink.endpoint.environment(), "BUCKET_BASE": f"bucket-{next(numbers)}"}
                return timed(Command([str(home / words[0]), *words[1:]], environment))

            return run

        rows = {name: ours(*name.split()) for name in HELPS} | {STASH: ours("md5s3stash", str(file))}
        for peer in peers:
            rows[peer.name] = lambda peer=peer: timed(  # type: ignore[misc]
                peer.command(Job(source, sink.endpoint, f"bucket-{next(numbers)}"))
            )
        return in_rounds(rows, plan.rounds, missing), versions


def table(rounds: Rounds) -> str:
    """Milliseconds."""
    columns = ("command", ">median ms", ">CPU ms", ">peak MiB")
    rows = [
        (
            name,
            f"{1000 * rounds.seconds(name):.0f}",
            f"{1000 * rounds.cpu_seconds(name):.0f}",
            f"{rounds.peak_mib(name):.0f}",
        )
        for name in rounds.costs
    ]
    return page.table(columns, rows)


def aims(rounds: Rounds) -> str:
    """The aims, and whether the figures reach them."""
    slowest = max(HELPS, key=rounds.seconds)
    return "\n".join(
        [
            page.at_most(f"Every `--help` under 150 ms (`{slowest}`)", 1000 * rounds.seconds(slowest), 150, "ms"),
            page.at_most("One small file under 400 ms", 1000 * rounds.seconds(STASH), 400, "ms"),
            page.at_least("Ahead of `aws s3 cp`", rounds.times_as_fast(STASH, PEERS[0].name), 1.0),
        ]
    )


def report(plan: Plan) -> page.Figures:
    rounds, versions = measure(plan)
    return page.Figures(page.paragraphs(table(rounds), aims(rounds)), page.notes(rounds.missing, versions))


BLOCKS = (page.Block("cli_startup", report, Plan()),)

if __name__ == "__main__":
    page.main(report, Plan(), __doc__)
