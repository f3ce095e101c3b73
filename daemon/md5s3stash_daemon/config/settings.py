"""The daemon's own sections of the settings."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from md5s3stash.errors import StashError
from md5s3stash.scheme import BucketBase
from md5s3stash.settings import CORE_SECTIONS, one_of, optional_text, seconds, setting, text, texts, whole_number
from md5s3stash_daemon.config.notice_settings import NoticeSettings
from md5s3stash_daemon.config.values import directory, optional_file
from md5s3stash_daemon.spool.ignored import DEFAULT_PATTERNS

_HOST_NAME = re.compile(r"[a-z0-9_]([a-z0-9._-]{0,252})", re.ASCII)
_WEB_URL = re.compile(r"https?://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?(/[A-Za-z0-9._~/-]*)?", re.ASCII)


def socket_path(value: Any) -> str | None:
    """An absolute path; an empty text means not set."""
    path = optional_text(value)
    if path is not None and not path.startswith("/"):
        raise ValueError("an absolute path is needed")
    return path


def ip_address(value: Any) -> str:
    """A numeric IP address of this machine."""
    try:
        return str(ipaddress.ip_address(text(value)))
    except ValueError:
        raise ValueError("an IP address is needed, such as 127.0.0.1") from None


def networks(value: Any) -> tuple[str, ...]:
    """Networks in CIDR form; a single address is a network of one."""
    try:
        return tuple(str(ipaddress.ip_network(part)) for part in texts(value))
    except ValueError as error:
        raise ValueError(f"networks such as 10.1.0.0/16 or fd00:1::/64 are needed: {error}") from None


def host_names(value: Any) -> tuple[str, ...]:
    """Host names, in lower case."""
    names = tuple(name.lower() for name in texts(value))
    if not all(_HOST_NAME.fullmatch(name) for name in names):
        raise ValueError("host names such as stash.example.org are needed, without a port")
    return names


def web_url(value: Any) -> str | None:
    """An http or https URL to append paths to; an empty text means not set."""
    url = text(value).rstrip("/")
    # It becomes part of a header whose words are separated by blanks and semicolons.
    if url and not _WEB_URL.fullmatch(url):
        raise ValueError("a URL such as https://thumbs.example.org is needed, without a query")
    return url or None


def yes_or_no(value: Any) -> bool:
    """true or false, in TOML or as a word."""
    if isinstance(value, bool):
        return value
    word = text(value).lower()
    if word not in ("true", "false", "yes", "no", "1", "0"):
        raise ValueError("true or false is needed")
    return word in ("true", "yes", "1")


@dataclass(frozen=True, slots=True)
class SpoolSettings:
    """`[spool]`: directories and timing."""

    dir: Path = setting(
        Path("/var/spool/md5s3stash"), directory, "directory of incoming/ and the other states", "SPOOL_DIR"
    )
    jobs: int = setting(16, whole_number(1, 64), "files stashed at once, by all processes together")
    processes: int = setting(
        0, whole_number(0, 64), "worker processes, at most one for each job; 0: one for each usable core, up to four"
    )
    confirmed_seconds: float = setting(
        3600.0,
        seconds(0, 30 * 86400),
        "how long S3's confirmation of a content is cached for other files with that content; 0 asks S3 each time",
    )
    rescan_seconds: float = setting(10.0, seconds(0.1, 3600), "time between scans when no event wakes the daemon")
    stop_seconds: float = setting(60.0, seconds(0, 3600), "time for work in progress when the daemon shuts down")
    probe_seconds: float = setting(
        1.0, seconds(0.01, 300), "first delay before S3 or Redis is probed again while unavailable; doubles each time"
    )
    max_probe_seconds: float = setting(30.0, seconds(0.1, 3600), "longest delay between two probes")
    settle_seconds: float = setting(
        5.0,
        seconds(0, 3600),
        "how long size and times must stay the same where nothing else shows that a file is complete",
    )
    first_delay_seconds: float = setting(
        5.0, seconds(0.1, 86400), "delay before the first retry of a deferred file; doubles each time"
    )
    max_delay_seconds: float = setting(3600.0, seconds(1, 7 * 86400), "longest delay between two attempts")
    watch: str = setting(
        "auto", one_of("auto", "inotify", "poll"), "how drops are noticed; auto: polls on network file systems only"
    )
    poll_seconds: float = setting(5.0, seconds(0.1, 3600), "time between scans where drops are noticed by polling")
    stuck_seconds: float = setting(
        120.0,
        seconds(0.1, 86400),
        "seconds without progress before the watchdog and /healthz report the daemon as stuck",
    )
    ignore: tuple[str, ...] = setting(
        DEFAULT_PATTERNS, texts, "names of files and folders in incoming/ that are never stashed, as patterns"
    )
    collections: bool = setting(
        False,
        yes_or_no,
        "store what is in a folder of incoming/, lists of URLs too, in the collection that the first folder names; "
        "needs stash.key_template",
    )
    access_socket: str | None = setting(
        None, socket_path, "socket of the access helper, which gives the daemon access to folders; not set: no helper"
    )
    min_free_bytes: int = setting(
        1024**3,
        whole_number(0, 2**60),
        "downloads pause while the disk of the spool or of temporary files has fewer free bytes",
    )


@dataclass(frozen=True, slots=True)
class HttpSettings:
    """`[http]`: the status page, /healthz and /metrics."""

    address: str = setting("127.0.0.1", ip_address, "address of the status page, /healthz and /metrics")
    port: int = setting(9108, whole_number(0, 65535), "port of the status page, /healthz and /metrics; 0: no server")
    hosts: tuple[str, ...] = setting(
        (), host_names, "host names that browsers may use for the status page, besides localhost and IP addresses"
    )
    thumbnails_url: str | None = setting(
        None, web_url, "URL of the thumbnail server for browsers, such as https://thumbs.example.org"
    )
    thumbnail_icons: bool = setting(
        False, yes_or_no, "show the thumbnails of all files: the thumbnail server runs with --icons"
    )


@dataclass(frozen=True, slots=True)
class LogSettings:
    """`[log]`: the log on standard error."""

    level: str = setting("INFO", one_of("DEBUG", "INFO", "WARNING", "ERROR"), "lowest level that is logged")


@dataclass(frozen=True, slots=True)
class UrlSettings:
    """`[urls]`: how dropped lists of URLs are fetched."""

    jobs: int = setting(16, whole_number(1, 256), "URLs fetched at once, of all lists together")
    lists: int = setting(2, whole_number(1, 32), "lists processed at once; the others wait")
    per_host: int = setting(2, whole_number(1, 64), "requests to one host at once")
    host_delay_seconds: float = setting(0.1, seconds(0, 3600), "delay between two requests to one host")
    shared: bool = setting(
        False, yes_or_no, "apply host_delay_seconds and Retry-After to all daemons on this Redis together"
    )
    attempts: int = setting(5, whole_number(1, 100), "attempts for a URL with temporary errors")
    images_only: bool = setting(False, yes_or_no, "refuse content that is not an image")
    max_list_bytes: int = setting(1024**3, whole_number(1, 2**40), "the largest list of URLs, in bytes")
    allowed_networks: tuple[str, ...] = setting(
        (), networks, "private networks that URLs may point to, such as 10.1.0.0/16; public ones are always allowed"
    )


@dataclass(frozen=True, slots=True)
class DeliverySettings:
    """`[deliveries]`: dropped folders with a checksum manifest."""

    still_seconds: float = setting(
        0.0,
        seconds(0, 30 * 86400),
        "how long after its last file an incomplete delivery ends, such as 3600; 0: manifests are files as any other",
    )
    signing_key: Path | None = setting(
        None, optional_file, "private key of OpenSSH, without a passphrase, that signs receipts; not set: no signature"
    )


def queue_url(value: Any) -> str | None:
    """The URL of a standard SQS queue."""
    url = optional_text(value)
    if url is not None:
        if not re.fullmatch(r"https?://[A-Za-z0-9.\-\[\]:]+/[A-Za-z0-9_.\-/]+", url):
            raise ValueError("a queue's URL, such as https://sqs.us-west-2.amazonaws.com/123456789012/NAME, is needed")
        if url.endswith(".fifo"):
            # It delivers no more of a group while one message is in progress, and every producer must set group ids.
            raise ValueError("a standard queue is needed, not a FIFO one: order does not matter here")
    return url


def http_url(value: Any) -> str | None:
    """Scheme, host and perhaps port of a URL."""
    url = optional_text(value)
    if url is not None and not re.fullmatch(r"https?://[A-Za-z0-9.\-\[\]:]+/?", url):
        raise ValueError("a URL such as http://169.254.169.254 is needed")
    return url


def profile_files(value: Any) -> tuple[str, ...]:
    """Entries of the form NAME=/PATH."""
    entries = texts(value)
    for entry in entries:
        name, _, file = entry.partition("=")
        if not name or not file.startswith("/"):
            raise ValueError("entries such as museum=/etc/md5s3stash/museum.netrc are needed")
    return entries


@dataclass(frozen=True, slots=True)
class QueueSettings:
    """`[queue]`: the second intake, beside the spool. `[urls]` sets how its URLs are fetched and retried."""

    url: str | None = setting(None, queue_url, "URL of the SQS queue to consume; not set: no queue")
    window: int = setting(
        128, whole_number(10, 10_000), "messages in progress at once, fetched or waiting for their host"
    )
    wait_seconds: float = setting(
        10.0, seconds(0, 20), "how long SQS waits for a message; shutdown of an idle daemon takes as long"
    )
    visibility_seconds: float = setting(
        120.0, seconds(2, 43200), "time until other daemons get the messages of one that died; heartbeats extend it"
    )
    auth_profiles: tuple[str, ...] = setting(
        (), profile_files, "password files that messages may name, as NAME=/PATH, each a netrc file"
    )
    drop_buckets: tuple[str, ...] = setting((), texts, "buckets whose S3 event notifications are accepted")
    metadata_url: str | None = setting(
        None,
        http_url,
        "metadata endpoint to poll for termination notices, http://169.254.169.254 on EC2; not set: no polling",
    )


def bucket_prefix(value: Any) -> str | None:
    """BUCKET/PREFIX; an empty text means not set."""
    place = optional_text(value)
    if place is None:
        return None
    try:
        base = BucketBase.parse(place).base
    except StashError as error:
        raise ValueError(str(error)) from error
    if "/" not in base:
        raise ValueError("a bucket and a prefix in it are needed, such as my-bucket/provenance")
    return base


@dataclass(frozen=True, slots=True)
class ProvenanceSettings:
    """`[provenance]`: the index of who sent what and when."""

    index: Path | None = setting(
        None, optional_file, "SQLite file that collects each outcome, on a local disk; not set: no index"
    )
    snapshots: str | None = setting(
        None, bucket_prefix, "where copies of the collected outcomes go, as BUCKET/PREFIX; not set: no copies"
    )
    snapshot_seconds: float = setting(
        3600.0, seconds(1, 7 * 86400), "the longest time before new outcomes are copied; also after 50,000 of them"
    )

    def snapshot_bases(self) -> tuple[BucketBase, ...]:
        """Where snapshots are, as a bucket base; empty if there are none."""
        return () if self.snapshots is None else (BucketBase.parse(self.snapshots),)


def days(value: Any) -> float:
    """A number of days, at most ten years."""
    try:
        number: float = seconds(0, 3660)(value)
        return number
    except ValueError:
        raise ValueError("a number of days from 0 to 3660 is needed") from None


@dataclass(frozen=True, slots=True)
class FixitySettings:
    """`[fixity]`: the standing check of the buckets."""

    period_days: float = setting(
        0.0, days, "within how many days every object is read and hashed, such as 90; 0: no standing check"
    )
    max_requests_per_day: int = setting(
        0, whole_number(0, 10**9), "requests that the standing check may send in 24 hours; 0: no limit"
    )
    max_bytes_per_day: int = setting(
        0, whole_number(0, 2**60), "bytes that the standing check may read in 24 hours; 0: no limit"
    )


SECTIONS: Mapping[str, type] = {
    **CORE_SECTIONS,
    "spool": SpoolSettings,
    "http": HttpSettings,
    "log": LogSettings,
    "urls": UrlSettings,
    "queue": QueueSettings,
    "deliveries": DeliverySettings,
    "provenance": ProvenanceSettings,
    "fixity": FixitySettings,
    "notices": NoticeSettings,
}
