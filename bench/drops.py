"""Measures new files from drop to record: the daemon beside common upload programs.

    python -m bench.drops --files 2000 --rounds 5

The daemon does more than the others: it claims each file, hashes it twice, finds its type and dimensions, stores it
under its md5 if it is new, records it in a Redis that syncs each write, and removes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from bench import page, stack
from bench.jpeg_files import make_files
from bench.timing import Rounds, in_rounds
from bench.upload_peers import RCLONE, Peer, aws, python_loop, s5cmd, s5cmd_by_md5
from bench.uploads import OURS, Uploads, installed, real_server, sink_server

SHELL_LOOP = "md5sum, ln in a shell loop, s5cmd cp"
QUICK_LINKS = "md5sum by two, links by one process, s5cmd cp"
PLAIN = "s5cmd cp"

BY_MD5 = (s5cmd_by_md5(SHELL_LOOP, "loop"), s5cmd_by_md5(QUICK_LINKS, "quick"), s5cmd(PLAIN, "cp"))
FEW = (*BY_MD5, RCLONE)
PEERS = (
    *FEW,
    aws("aws s3 cp --recursive", "cp", "--recursive"),
    python_loop("s3transfer with CRT", "crt", "s3transfer", "awscrt"),
    python_loop("boto3 upload_file, a loop", "boto3", "boto3"),
    python_loop("boto3 upload_file, 8 threads", "boto3-threads", "boto3"),
    python_loop("obstore put, 8 threads", "obstore", "obstore"),
)
CHOICES = {"all": PEERS, "few": FEW, "s5cmd": BY_MD5}

# Time limits: less than ten files a second counts as a failure.
_SECONDS_A_FILE = 0.1
_SECONDS_AT_LEAST = 120.0


@dataclass(frozen=True, slots=True)
class Plan:
    """The number of files, and the server: the sink (with or without TLS) or rclone's S3 server."""

    files: int = 2000
    rounds: int = 5
    beside: str = field(default="all", metadata={"choices": CHOICES})
    tls: bool = False
    real_server: bool = False


@dataclass(frozen=True, slots=True)
class Results:
    """All rows."""

    files: int
    rounds: Rounds
    versions: dict[str, str]


def measure(plan: Plan, peers: Sequence[Peer] | None = None) -> Results:
    """All rows, in interleaved rounds."""
    peers = CHOICES[plan.beside] if peers is None else peers
    versions, missing = installed(peers)
    with stack.workspace() as directory:
        source = directory / "files"
        make_files(source, plan.files)
        longest = _SECONDS_AT_LEAST + plan.files * _SECONDS_A_FILE
        with real_server(directory) if plan.real_server else sink_server(directory, plan.tls) as server:
            uploads = Uploads(directory, source, plan.files, server, longest)
            return Results(plan.files, in_rounds(uploads.rows(peers), plan.rounds, missing), versions)


def table(results: Results) -> str:
    """Files a second, and the daemon's rate relative to each peer's."""
    rounds = results.rounds
    return page.rates(rounds, results.files, "daemon to it", lambda name: rounds.times_as_fast(OURS, name))


def aims(results: Results) -> str:
    """The aims, and whether the figures reach them."""
    wanted = (
        ("2.5 times s5cmd after md5sum in a shell loop", SHELL_LOOP, 2.5),
        ("The same, hashed and linked as quickly as we know how", QUICK_LINKS, 2.5),
        ("Ahead of plain s5cmd", PLAIN, 1.0),
    )
    return "\n".join(page.at_least(aim, results.rounds.times_as_fast(OURS, peer), least) for aim, peer, least in wanted)


def report(plan: Plan) -> page.Figures:
    results = measure(plan)
    notes = page.notes(results.rounds.missing, results.versions)
    return page.Figures(page.paragraphs(table(results), aims(results)), notes)


BLOCKS = (
    page.Block("drops", report, Plan()),
    page.Block("drops/tls", report, Plan(rounds=3, beside="few", tls=True)),
    page.Block("drops/real", report, Plan(rounds=3, beside="few", real_server=True)),
    page.Block("drops_many", report, Plan(files=200_000, rounds=1, beside="s5cmd"), takes_long=True),
)

if __name__ == "__main__":
    page.main(report, Plan(), __doc__)
