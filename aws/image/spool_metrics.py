"""Sends metrics to CloudWatch, for alarms: some of the daemon's, and whether the box itself runs out of disk or memory.

Runs each minute. While the daemon does not answer it sends nothing, and an alarm treats missing data as a fault. Does
nothing on a box whose settings name no stack.
"""

from __future__ import annotations

import http.client
import os
import re
import sys
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path

import boto3
import redis
from botocore.exceptions import BotoCoreError, ClientError
from prometheus_client.parser import text_string_to_metric_families

NAMESPACE = "md5s3stash"
METRICS_URL = "http://127.0.0.1:9108/metrics"
# name in CloudWatch and its unit -> name and labels in docs/metrics.md; the largest of several samples counts
FIGURES: Mapping[tuple[str, str], tuple[str, Mapping[str, str]]] = {
    ("IncomingFiles", "Count"): ("md5s3stash_spool_files", {"state": "incoming"}),
    ("FailedFiles", "Count"): ("md5s3stash_spool_files", {"state": "failed"}),
    ("OldestIncoming", "Seconds"): ("md5s3stash_spool_oldest_seconds", {"state": "incoming"}),
    ("Paused", "None"): ("md5s3stash_paused", {}),
    ("FreeDisk", "Bytes"): ("md5s3stash_spool_free_bytes", {}),
    ("Uptime", "Seconds"): ("process_start_time_seconds", {}),
}
UPTIME = ("Uptime", "Seconds")
# Of the root disk, the memory and what Redis may use of it, the one that has least free. One figure, since each costs.
LEAST_FREE = ("LeastFree", "Percent")
ROOT_DISK, MEMORY, REDIS = Path("/"), Path("/proc/meminfo"), Path("/run/redis/redis-server.sock")

_ANSWER_SECONDS = 10.0
_MAX_ANSWER_BYTES = 1024 * 1024
# A proxy cannot reach loopback.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def main(environment: Mapping[str, str] = os.environ, url: str = METRICS_URL) -> int:
    """0 when the metrics were sent or no stack is set, 1 after an error."""
    stack = environment.get("METRICS_STACK")
    if not stack:
        return 0
    try:
        with _OPENER.open(url, timeout=_ANSWER_SECONDS) as answer:
            told = {**figures(answer.read(_MAX_ANSWER_BYTES).decode()), LEAST_FREE: least_free_percent()}
        boto3.client("cloudwatch").put_metric_data(
            Namespace=NAMESPACE,
            MetricData=[
                {"MetricName": name, "Unit": unit, "Value": value, "Dimensions": [{"Name": "Stack", "Value": stack}]}
                for (name, unit), value in told.items()
            ],
        )
    except (OSError, http.client.HTTPException, ValueError, BotoCoreError, ClientError) as error:
        print(f"cannot send metrics to CloudWatch: {error}", file=sys.stderr)
        return 1
    return 0


def figures(exposition: str) -> dict[tuple[str, str], float]:
    """The values of `FIGURES` on a page of metrics. Raises ValueError for a page that is not valid."""
    samples = [sample for family in text_string_to_metric_families(exposition) for sample in family.samples]
    found = {
        figure: [sample.value for sample in samples if sample.name == name and labels.items() <= sample.labels.items()]
        for figure, (name, labels) in FIGURES.items()
    }
    # The first scrape after a start may come before the first count of the spool.
    told = {figure: max(values) for figure, values in found.items() if values}
    if UPTIME in told:
        told[UPTIME] = max(0.0, time.time() - told[UPTIME])
    return told


def least_free_percent(root_disk: Path = ROOT_DISK, memory: Path = MEMORY, redis_socket: Path = REDIS) -> float:
    """The smallest free share of the root disk, of the memory, and of the memory that Redis may use."""
    disk = os.statvfs(root_disk)
    kilobytes = {
        name: int(rest.split()[0]) for name, rest in re.findall(r"^(\w+):(.*)$", memory.read_text(), re.MULTILINE)
    }
    memory_share = kilobytes["MemAvailable"] / kilobytes["MemTotal"]
    return 100 * min(disk.f_bavail / disk.f_blocks, memory_share, redis_share(redis_socket))


def redis_share(socket: Path) -> float:
    """The free share of the `maxmemory` of the box's own Redis; 1 without a limit or an answer (see `Paused`)."""
    try:
        with redis.Redis(unix_socket_path=str(socket), socket_timeout=_ANSWER_SECONDS) as server:
            told = server.info("memory")
    except redis.RedisError:
        return 1.0
    limit = told["maxmemory"]
    return max(0.0, 1 - told["used_memory"] / limit) if limit else 1.0


if __name__ == "__main__":
    raise SystemExit(main())
