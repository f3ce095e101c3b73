"""What the commands cost before they do anything, and `md5s3stash` for a single small file.

python bench/cli_startup.py --rounds 15
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench import page, stack  # noqa: E402 after the path that makes them importable
from bench.jpeg_files import make_files  # noqa: E402
from bench.timing import Command, Cost, Rounds, in_rounds, timed  # noqa: E402
from bench.upload_peers import Job, Peer, aws, s5cmd  # noqa: E402
from bench.uploads import installed, versions_line  # noqa: E402

ROUNDS = 15
# Those of pyproject.toml.
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
class Results:
    """What the page shows."""

    rounds: Rounds
    versions: dict[str, str]


def measure(rounds: int, peers: Sequence[Peer] = PEERS) -> Results:
    """All rows, in interleaved rounds; each upload is into a bucket of its own, as content that is known is cheaper."""
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
        return Results(in_rounds(rows, rounds, missing), versions)


def table(results: Results) -> str:
    """Milliseconds."""
    rounds = results.rounds
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
    return page.paragraphs(
        page.table(columns, rows), page.not_measured(rounds.missing), versions_line(results.versions)
    )


def aims(results: Results) -> str:
    """What the figures are held against."""
    rounds = results.rounds
    return "\n".join(
        [
            *(page.at_most(f"`{name}` under 150 ms", 1000 * rounds.seconds(name), 150, "ms") for name in HELPS),
            page.at_most("One small file under 400 ms", 1000 * rounds.seconds(STASH), 400, "ms"),
            page.at_least("Ahead of `aws s3 cp`", rounds.times_as_fast(STASH, PEERS[0].name), 1.0),
        ]
    )


def text(full: bool) -> str:
    """The section of the page."""
    results = measure(ROUNDS)
    return page.paragraphs(
        f"A new process each time, its files in the page cache; one JPEG of 20 kB. Medians of {ROUNDS}.",
        aims(results),
        table(results),
        page.command(f"python bench/cli_startup.py --rounds {ROUNDS}"),
    )


SECTIONS = (page.Section("cli_startup", "Start of the command", text),)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="start-up, and one small file")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    results = measure(parser.parse_args(argv).rounds)
    print(f"\n{page.paragraphs(aims(results), table(results))}")


if __name__ == "__main__":
    main()
