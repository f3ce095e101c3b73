"""The daemon's own section of the settings."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from md5s3stash.settings import CORE_SECTIONS, one_of, optional_text, seconds, setting, text, texts, whole_number
from md5s3stash_daemon.spool.ignored import DEFAULT_PATTERNS

_HOST_NAME = re.compile(r"[a-z0-9_]([a-z0-9._-]{0,252})", re.ASCII)
_WEB_URL = re.compile(r"https?://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?(/[A-Za-z0-9._~/-]*)?", re.ASCII)


def directory(value: Any) -> Path:
    """An absolute path."""
    path = Path(text(value))
    if not path.is_absolute():
        raise ValueError("an absolute path is needed")
    return path


def socket_path(value: Any) -> str | None:
    """An absolute path; empty is the same as not set."""
    path = optional_text(value)
    if path is not None and not path.startswith("/"):
        raise ValueError("an absolute path is needed")
    return path


def ip_address(value: Any) -> str:
    """An address of this machine, as numbers."""
    try:
        return str(ipaddress.ip_address(text(value)))
    except ValueError:
        raise ValueError("an IP address is needed, such as 127.0.0.1") from None


def networks(value: Any) -> tuple[str, ...]:
    """Networks in CIDR form; an address alone is a network of one."""
    try:
        return tuple(str(ipaddress.ip_network(part)) for part in texts(value))
    except ValueError as error:
        raise ValueError(f"networks such as 10.1.0.0/16 or fd00:1::/64 are needed: {error}") from None


def host_names(value: Any) -> tuple[str, ...]:
    """Names of hosts, in lower case."""
    names = tuple(name.lower() for name in texts(value))
    if not all(_HOST_NAME.fullmatch(name) for name in names):
        raise ValueError("host names such as stash.example.org are needed, without a port")
    return names


def web_url(value: Any) -> str | None:
    """An http or https URL to put paths behind, or nothing."""
    url = text(value).rstrip("/")
    # It stands in a header that separates its words by blanks and semicolons.
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
    """`[spool]`: the directories, and the pace."""

    dir: Path = setting(
        Path("/var/spool/md5s3stash"), directory, "where incoming/ and the other states are", "SPOOL_DIR"
    )
    jobs: int = setting(16, whole_number(1, 64), "files stashed at once, by all processes together")
    processes: int = setting(
        0, whole_number(0, 64), "worker processes, at most one a job; 0 takes one for each core, up to four"
    )
    confirmed_seconds: float = setting(
        3600.0,
        seconds(0, 30 * 86400),
        "how long S3's word that it holds a content is taken for another file of that content; 0 asks each time",
    )
    rescan_seconds: float = setting(10.0, seconds(0.1, 3600), "between scans when no event wakes the daemon")
    stop_seconds: float = setting(60.0, seconds(0, 3600), "for what is under way when the daemon is told to stop")
    probe_seconds: float = setting(1.0, seconds(0.01, 300), "before S3 or Redis is asked again after a fault; doubles")
    max_probe_seconds: float = setting(30.0, seconds(0.1, 3600), "the longest wait between two such questions")
    settle_seconds: float = setting(
        5.0,
        seconds(0, 3600),
        "how long size and time stamp must be still where nothing else tells that a file is complete",
    )
    first_delay_seconds: float = setting(
        5.0, seconds(0.1, 86400), "before a failed file is tried again; doubles each time"
    )
    max_delay_seconds: float = setting(3600.0, seconds(1, 7 * 86400), "the longest wait between two tries")
    watch: str = setting(
        "auto", one_of("auto", "inotify", "poll"), "how drops are noticed; auto polls on network file systems"
    )
    poll_seconds: float = setting(5.0, seconds(0.1, 3600), "between scans where drops are noticed by polling")
    stuck_seconds: float = setting(
        120.0, seconds(0.1, 86400), "without progress until the watchdog and /healthz are told that the daemon hangs"
    )
    ignore: tuple[str, ...] = setting(
        DEFAULT_PATTERNS, texts, "names of files and folders in incoming/ that are never stashed, as patterns"
    )
    access_socket: str | None = setting(
        None, socket_path, "socket of the access helper, which opens closed folders to the daemon; not set: no helper"
    )
    min_free_bytes: int = setting(
        1024**3,
        whole_number(0, 2**60),
        "downloads pause while the disk of the spool or of temporary files has less free",
    )


@dataclass(frozen=True, slots=True)
class HttpSettings:
    """`[http]`: the status page, /healthz and /metrics."""

    address: str = setting("127.0.0.1", ip_address, "where the status page, /healthz and /metrics are served")
    port: int = setting(9108, whole_number(0, 65535), "the port of these; 0 serves nothing")
    hosts: tuple[str, ...] = setting(
        (), host_names, "names by which browsers may ask for the status page, besides localhost and addresses"
    )
    thumbnails_url: str | None = setting(
        None, web_url, "where browsers find the thumbnail server, such as https://thumbs.example.org"
    )


@dataclass(frozen=True, slots=True)
class LogSettings:
    """`[log]`: what is written to standard error."""

    level: str = setting("INFO", one_of("DEBUG", "INFO", "WARNING", "ERROR"), "the least important line that is logged")


@dataclass(frozen=True, slots=True)
class UrlSettings:
    """`[urls]`: how dropped lists of URLs are fetched."""

    jobs: int = setting(16, whole_number(1, 256), "URLs fetched at once, of all lists together")
    lists: int = setting(2, whole_number(1, 32), "lists worked on at once; the others wait")
    per_host: int = setting(2, whole_number(1, 64), "requests to one host at once")
    host_delay_seconds: float = setting(0.1, seconds(0, 3600), "from one request to a host to the next")
    shared: bool = setting(
        False, yes_or_no, "whether host_delay_seconds and Retry-After hold for all daemons on this Redis together"
    )
    attempts: int = setting(5, whole_number(1, 100), "how often a URL is tried that may work later")
    images_only: bool = setting(False, yes_or_no, "whether contents that are no pictures are refused")
    max_list_bytes: int = setting(1024**3, whole_number(1, 2**40), "the largest list of URLs, in bytes")
    allowed_networks: tuple[str, ...] = setting(
        (), networks, "private networks that URLs may lead to, such as 10.1.0.0/16; public ones always may"
    )


def queue_url(value: Any) -> str | None:
    """The URL of a standard SQS queue."""
    url = optional_text(value)
    if url is not None:
        if not re.fullmatch(r"https?://[A-Za-z0-9.\-\[\]:]+/[A-Za-z0-9_.\-/]+", url):
            raise ValueError("a queue's URL, such as https://sqs.us-west-2.amazonaws.com/123456789012/NAME, is needed")
        if url.endswith(".fifo"):
            # It hands out no more of a group while one message is in hand, and wants group ids of every producer.
            raise ValueError("a standard queue is needed, not a FIFO one: order means nothing here")
    return url


def http_url(value: Any) -> str | None:
    """The start of a URL: scheme, host and perhaps port."""
    url = optional_text(value)
    if url is not None and not re.fullmatch(r"https?://[A-Za-z0-9.\-\[\]:]+/?", url):
        raise ValueError("a URL such as http://169.254.169.254 is needed")
    return url


def profile_files(value: Any) -> tuple[str, ...]:
    """Entries NAME=/PATH."""
    entries = texts(value)
    for entry in entries:
        name, _, file = entry.partition("=")
        if not name or not file.startswith("/"):
            raise ValueError("entries such as museum=/etc/md5s3stash/museum.netrc are needed")
    return entries


@dataclass(frozen=True, slots=True)
class QueueSettings:
    """`[queue]`: the second intake, beside the spool. How URLs are fetched and tried again is in `[urls]`."""

    url: str | None = setting(None, queue_url, "of an SQS queue to take messages from; not set: there is none")
    window: int = setting(128, whole_number(10, 10_000), "messages in hand at once, fetched or waiting for their host")
    wait_seconds: float = setting(10.0, seconds(0, 20), "how long SQS waits for a message; an idle stop takes as long")
    visibility_seconds: float = setting(
        120.0, seconds(2, 43200), "until others get the messages of a daemon that died; heartbeats renew it"
    )
    auth_profiles: tuple[str, ...] = setting(
        (), profile_files, "passwords that messages may name, as NAME=/PATH of a netrc file each"
    )
    drop_buckets: tuple[str, ...] = setting(
        (), texts, "buckets whose objects S3's event notifications may have stashed"
    )
    metadata_url: str | None = setting(
        None, http_url, "asked whether this instance is to go, http://169.254.169.254 on EC2; not set: nobody is"
    )


SECTIONS: Mapping[str, type] = {
    **CORE_SECTIONS,
    "spool": SpoolSettings,
    "http": HttpSettings,
    "log": LogSettings,
    "urls": UrlSettings,
    "queue": QueueSettings,
}
