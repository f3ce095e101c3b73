"""Starts the appliance on this machine, stashes the samples, and shows the outcome of each dropped file.

    redis ─┐
    S3 ────┴─ the bucket ─┬─ the daemon ─────── the samples ── a line for each further file, until Ctrl-C
                          └─ the thumbnailer ─┘

Everything listens on 127.0.0.1 and keeps its data below one directory. Ctrl-C stops every process that was started; the
kernel does so if this program or supervisord is killed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from types import FrameType

import boto3
import redis
import requests
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from laptop.configuration import environment_of_programs, shell_environment, supervisor_configuration
from laptop.credentials import KeyPair, load_or_make
from laptop.errors import LaptopError, StopRequested
from laptop.place import BUCKET, Place, place_from
from laptop.ports import refuse_taken
from laptop.report import Colours, colours_for_stdout, how_to_go_on, outcome_line, samples_table
from laptop.sample_files import drop, samples
from laptop.stash_log import Outcome, StashLog
from laptop.supervisor import Supervisor

_START_SECONDS = 60.0
_POLL_SECONDS = 0.1
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_LOOK_AGAIN_MILLISECONDS = 500


def main() -> int:
    """The exit code: 0 when the user stopped it, 1 after an error, which it prints."""
    with _signals_stop_us():
        try:
            _run(place_from(os.environ), colours_for_stdout())
        except StopRequested:
            pass
        except LaptopError as error:
            _flush_stdout()
            print(error, file=sys.stderr)
            return 1
        except BrokenPipeError:
            # The reader of our output has ended, as in `make run | head`.
            pass
        return 0


def _run(place: Place, colours: Colours) -> None:
    place.make_directories()
    with _alone_on(place):
        refuse_taken(place.ports)
        keys = load_or_make(place.run / "s3-keys.json")
        configuration = place.run / "supervisord.conf"
        configuration.write_text(supervisor_configuration(place))

        environment = environment_of_programs(place, keys, os.environ)
        # The file holds keys: only the owner can enter its directory.
        place.shell_environment.write_text(shell_environment(environment))

        supervisor = Supervisor(place, configuration)
        try:
            _say(f"Starting redis, an S3 server, the daemon and the thumbnailer; data in {place.data}")
            supervisor.start(environment)
            log = _start_programs(place, keys, supervisor)
            _stash_samples(place, log, supervisor, colours)
            _follow(place, log, supervisor, colours)
        finally:
            with _signals_ignored():
                supervisor.stop()
                _say_if_possible("\nStopped: the daemon, the thumbnailer, the S3 server and redis.")


def _start_programs(place: Place, keys: KeyPair, supervisor: Supervisor) -> StashLog:
    """Returns the log, opened before the daemon starts, so that no outcome of this run is missed."""
    supervisor.start_programs("redis", "s3")
    _wait(supervisor, "redis", lambda: _redis_answers(place))
    _wait(supervisor, "s3", lambda: _bucket_is_there(place, keys))
    log = StashLog(place.redis_url)
    supervisor.start_programs("daemon", "thumbnailer")
    _wait(supervisor, "daemon", place.incoming.is_dir)
    _wait(supervisor, "thumbnailer", lambda: _is_healthy(place))
    return log


def _stash_samples(place: Place, log: StashLog, supervisor: Supervisor, colours: Colours) -> None:
    dropped = samples()
    for sample in dropped:
        drop(sample, place.incoming)
    of_samples: dict[str, Outcome] = {}
    of_others: list[Outcome] = []  # of files dropped while the appliance did not run

    def all_have_an_outcome() -> bool:
        for outcome in _new_outcomes(log, supervisor):
            if any(outcome.name == sample.name for sample in dropped):
                of_samples[outcome.name] = outcome
            else:
                of_others.append(outcome)
        return len(of_samples) == len(dropped)

    _wait(supervisor, "daemon", all_have_an_outcome)
    _say("", *samples_table(place, dropped, of_samples, colours))
    _say("", *how_to_go_on(place, dropped, of_samples, colours), "")
    _say(*(outcome_line(place, outcome, colours) for outcome in of_others))


def _follow(place: Place, log: StashLog, supervisor: Supervisor, colours: Colours) -> None:
    """Prints outcomes until the user stops us (StopRequested) or a program keeps ending (LaptopError)."""
    while True:
        for outcome in _new_outcomes(log, supervisor):
            _say(outcome_line(place, outcome, colours))


def _new_outcomes(log: StashLog, supervisor: Supervisor) -> Iterator[Outcome]:
    supervisor.check()
    try:
        yield from log.wait(_LOOK_AGAIN_MILLISECONDS)
    except redis.RedisError:
        # supervisord restarts redis, and the log continues where it was; otherwise `check` raises.
        time.sleep(_POLL_SECONDS)


def _wait(supervisor: Supervisor, program: str, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not condition():
        supervisor.check()
        if time.monotonic() > deadline:
            raise LaptopError(
                f"The program '{program}' was not ready within {_START_SECONDS:g} seconds; its log ends with:\n"
                f"{supervisor.tail(program)}"
            )
        time.sleep(_POLL_SECONDS)


def _redis_answers(place: Place) -> bool:
    try:
        with redis.Redis.from_url(place.redis_url, socket_timeout=2) as client:
            # While redis loads its data, it answers every command with an error.
            return bool(client.ping())
    except redis.RedisError:
        return False


def _bucket_is_there(place: Place, keys: KeyPair) -> bool:
    """Creates the bucket if needed; with our keys, so that another S3 server on the port is noticed."""
    client = boto3.client(
        "s3",
        endpoint_url=place.s3_url,
        region_name="us-east-1",
        aws_access_key_id=keys.access_key_id,
        aws_secret_access_key=keys.secret_access_key,
        config=Config(connect_timeout=2, read_timeout=5, retries={"total_max_attempts": 1}, proxies={}),
    )
    try:
        client.create_bucket(Bucket=BUCKET)
    except ClientError as error:
        return error.response["Error"]["Code"] in ("BucketAlreadyExists", "BucketAlreadyOwnedByYou")
    except BotoCoreError:
        return False
    return True


def _is_healthy(place: Place) -> bool:
    session = requests.Session()
    session.trust_env = False  # no proxy for our own loopback
    try:
        return session.get(f"{place.thumbnailer_url}/healthz", timeout=2).status_code == 200
    except requests.RequestException:
        return False


@contextlib.contextmanager
def _alone_on(place: Place) -> Iterator[None]:
    """Two redis servers would ruin one data directory. The kernel releases the lock when the process ends."""
    with open(place.run / "laptop.lock", "a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LaptopError(
                f"The appliance is already running on {place.data}: stop it first, or give the second one its own "
                f"DATA_DIR and ports ({', '.join(port.variable for port in place.ports)})."
            ) from None
        yield


@contextlib.contextmanager
def _signals_stop_us() -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        # It may interrupt the making of an object, which then complains on standard error when it is thrown away.
        sys.unraisablehook = lambda complaint: None
        raise StopRequested

    hook = sys.unraisablehook
    before = {number: signal.signal(number, stop) for number in _STOP_SIGNALS}
    try:
        yield
    finally:
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _signals_ignored() -> Iterator[None]:
    """Stopping has its own time limit; a second Ctrl-C would only leave processes behind."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in _STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _say(*lines: str) -> None:
    for line in lines:
        print(line, flush=True)


def _say_if_possible(line: str) -> None:
    with contextlib.suppress(OSError):
        _say(line)


def _flush_stdout() -> None:
    with contextlib.suppress(OSError):
        sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
