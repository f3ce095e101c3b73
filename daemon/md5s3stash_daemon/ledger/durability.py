"""Writes to Redis that count only if Redis keeps them. Each script is sent together with CONFIG GET, INFO persistence
and INFO replication, in one round trip: the next record notices a `CONFIG SET`, a restart or a failover (decision 31).
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import redis
from redis.exceptions import NoScriptError, ReadOnlyError

from md5s3stash.errors import RedisUnavailable

# How long replicas may take for a group before it is recorded again; less if the timeout for Redis is shorter.
_REPLICA_SECONDS = 2.0

# Types of the first keys of every script here: names, hash_cache, log, open. Checked first: a script that fails half
# way does not undo its writes.
_TYPES = """
for place, kind in ipairs({'hash', 'hash', 'stream', 'hash'}) do
  local found = redis.call('TYPE', KEYS[place]).ok
  if found ~= 'none' and found ~= kind then
    return redis.error_reply('WRONGTYPE ' .. KEYS[place] .. ' is a ' .. found .. ', not a ' .. kind)
  end
end
"""

# KEYS: those four, and the probe's own. It has to write: a Redis that is full still answers reads.
_PROBE = "redis.call('SET', KEYS[5], ARGV[1])"

# Text in an error of Redis, or the library's name for it, and what to do. The first match counts.
_REMEDIES = (
    ("OutOfMemoryError", "its memory is full: raise maxmemory, or make room"),
    ("'maxmemory'", "its memory is full: raise maxmemory, or make room"),
    ("ReadOnlyError", "it is a replica: point REDIS_URL at the primary"),
    ("MISCONF", "it cannot write to its disk: see its log, and free the disk"),
    ("NOREPLICAS", "it has too few replicas: see min-replicas-to-write"),
    ("WRONGTYPE", "rename or delete that key, or choose another redis.prefix"),
    ("NoPermissionError", "grant the user of REDIS_URL what docs/scale.md lists"),
    ("has no permissions to run", "grant the user of REDIS_URL what docs/scale.md lists"),  # in a script, Redis 8
    ("user executing the script", "grant the user of REDIS_URL what docs/scale.md lists"),
    ("Authentication", "check the user and the password in REDIS_URL"),
    ("BusyLoadingError", "it is reading its append-only file; wait"),
    ("ClusterCrossSlotError", "give redis.prefix braces, as in {md5s3stash}"),
    ("ClusterDownError", "its cluster has lost a node: see CLUSTER INFO"),
    ("MovedError", "another node of its cluster has the keys: point REDIS_URL at that node"),
)

# Errors of the library for an answer that is not Redis': another program may listen on its port.
WRONG_ANSWER = (ValueError, TypeError, AttributeError, LookupError)
_NOT_REDIS = "what answers at REDIS_URL is not Redis"

# Redis appends this to an error in a script.
_OF_SCRIPT = re.compile(r"\.? script: [0-9a-f]{40}, on @user_script:\d+\.?$")


@dataclass(frozen=True, slots=True)
class Risk:
    """A way in which Redis may lose acknowledged writes. `name` is its name in `redis.accepted_risks`, empty if it
    cannot be accepted.
    """

    name: str
    words: str


class DurableScript:
    """A script on the ledger's four keys, which come first. Its writes count once the call returns."""

    def __init__(
        self, client: redis.Redis, script: str, replicas: int = 0, accepted_risks: Collection[str] = ()
    ) -> None:
        self._client: Any = client
        self._script = client.register_script(_TYPES + script)
        self._replicas = replicas
        timeout_seconds = self._client.connection_pool.connection_kwargs.get("socket_timeout")
        self._replica_seconds = min(_REPLICA_SECONDS, (timeout_seconds or 2 * _REPLICA_SECONDS) / 2)
        self._accepted_risks = accepted_risks
        # The names of the risks in the last answer, including accepted ones.
        self.risks: frozenset[str] = frozenset()

    def __call__(self, keys: Sequence[str], arguments: Sequence[Any]) -> None:
        """Raises RedisUnavailable if Redis does not answer, refuses, or may lose what was written."""
        command = ("EVALSHA", self._script.sha, len(keys), *keys, *arguments)
        with answering():
            written, acknowledged, *settings = self._run(command)
            if isinstance(written, NoScriptError):
                self._client.script_load(self._script.script)
                written, acknowledged, *settings = self._run(command)
        if isinstance(written, redis.RedisError):
            if isinstance(written, ReadOnlyError):
                # After a failover the host name points to another server; open connections stay with this one.
                self._client.connection_pool.disconnect(inuse_connections=False)
            raise unavailable(written) from written
        if written is not None:
            raise RedisUnavailable(f"{_NOT_REDIS}: {written!r:.100}")
        self._check(acknowledged, [each if isinstance(each, Mapping) else {} for each in settings])

    def _run(self, command: Sequence[Any]) -> list[Any]:
        # In one pipeline, because WAIT covers only the writes of its own connection.
        pipeline = self._client.pipeline(transaction=False)
        pipeline.execute_command(*command)
        if self._replicas:
            pipeline.wait(self._replicas, int(self._replica_seconds * 1000))
        else:
            pipeline.echo("0")
        pipeline.config_get("*append*")
        pipeline.config_get("maxmemory*")
        pipeline.info("persistence")
        pipeline.info("replication")
        answers: list[Any] = pipeline.execute(raise_on_error=False)
        return answers

    def _check(self, acknowledged: Any, settings: Sequence[Mapping[str, Any]]) -> None:
        append, memory, persistence, replication = settings
        risks = risks_of({**append, **memory}, {**persistence, **replication})
        self.risks = frozenset(risk.name for risk in risks if risk.name)
        wrong = [risk.words for risk in risks if risk.name not in self._accepted_risks]
        if wrong:
            raise RedisUnavailable(f"Redis may lose acknowledged writes: {'; '.join(wrong)}")
        if self._replicas and not (isinstance(acknowledged, int) and acknowledged >= self._replicas):
            raise RedisUnavailable(f"only {acknowledged} replicas of Redis have it, not {self._replicas}")


def ledger_keys(prefix: str, spool_id: str) -> list[str]:
    """The keys of a `DurableScript`: names, hash_cache, log and open."""
    return [*(f"{prefix}:{name}" for name in ("names", "hash_cache", "log")), f"{prefix}:open:{spool_id}"]


class LedgerProbe:
    """Writes one key like a record. Raises RedisUnavailable if Redis would refuse a record or might lose it."""

    def __init__(
        self,
        client: redis.Redis,
        prefix: str,
        spool_id: str = "",
        replicas: int = 0,
        accepted_risks: Collection[str] = (),
    ) -> None:
        self._keys = [*ledger_keys(prefix, spool_id), f"{prefix}:probe"]
        self._script = DurableScript(client, _PROBE, replicas, accepted_risks)

    def __call__(self) -> None:
        self._script(self._keys, ["1"])

    def risks(self) -> frozenset[str]:
        """The names of the risks in the last answer, including accepted ones."""
        return self._script.risks


def risks_of(config: Mapping[str, Any], info: Mapping[str, Any]) -> list[Risk]:
    """Why a Redis with these settings and this INFO may lose acknowledged writes; empty if it does not."""
    return [*_faults_of_now(info), *_risks_of_file(config, info), *_risks_of_memory(config), *_unknown(config, info)]


def _faults_of_now(info: Mapping[str, Any]) -> list[Risk]:
    found = []
    if info.get("role", "master") != "master":
        found.append(Risk("", "it is a replica: point REDIS_URL at the primary"))
    if info.get("aof_last_write_status", "ok") != "ok":
        found.append(Risk("", "aof_last_write_status is not ok: see its log, and free its disk"))
    return found


def _risks_of_file(config: Mapping[str, Any], info: Mapping[str, Any]) -> list[Risk]:
    if config.get("appendonly", "yes") != "yes" or info.get("aof_enabled", 1) != 1:
        return [_setting("appendonly", "no", "yes")]
    found = []
    if info.get("aof_current_size") == 0 and (
        info.get("aof_rewrite_in_progress") or info.get("aof_rewrite_scheduled") or info.get("aof_pending_rewrite")
    ):
        # After `CONFIG SET appendonly yes` nothing is durable until the first file is complete.
        found.append(Risk("", "appendonly was just set to yes: it is writing its first append-only file; wait"))
    for name, wanted in (("appendfsync", "always"), ("no-appendfsync-on-rewrite", "no")):
        if config.get(name, wanted) != wanted:
            found.append(_setting(name, config[name], wanted))
    return found


def _risks_of_memory(config: Mapping[str, Any]) -> list[Risk]:
    policy = config.get("maxmemory-policy", "noeviction")
    is_bounded = config.get("maxmemory", "0") != "0"
    return [_setting("maxmemory-policy", policy, "noeviction")] if is_bounded and policy != "noeviction" else []


def _unknown(config: Mapping[str, Any], info: Mapping[str, Any]) -> list[Risk]:
    wanted = {"appendonly", "appendfsync", "no-appendfsync-on-rewrite", "maxmemory-policy"} - config.keys()
    refused = [*(["CONFIG GET"] if wanted else []), *([] if "aof_enabled" in info and "role" in info else ["INFO"])]
    if not refused:
        return []
    remedy = "grant its user +info +config|get, or name unknown in redis.accepted_risks"
    return [Risk("unknown", f"it does not answer {' and '.join(refused)}: {remedy}")]


def _setting(name: str, value: Any, wanted: str) -> Risk:
    return Risk(
        name,
        f"{name} is {value}: set {name} {wanted} in redis.conf and with CONFIG SET, or name it in redis.accepted_risks",
    )


@contextlib.contextmanager
def answering() -> Iterator[None]:
    """Raises errors of Redis as RedisUnavailable, and so answers that are not Redis'."""
    try:
        yield
    except redis.RedisError as error:
        raise unavailable(error) from error
    except WRONG_ANSWER as error:
        raise RedisUnavailable(f"{_NOT_REDIS}: {error!r:.100}") from error


def unavailable(error: redis.RedisError) -> RedisUnavailable:
    """Redis' error as ours, with advice."""
    said = _OF_SCRIPT.sub("", str(error))
    words = f"Redis {'refused' if isinstance(error, redis.ResponseError) else 'does not answer'}: {said}"
    seen = f"{type(error).__name__} {error}"
    remedy = next((remedy for sign, remedy in _REMEDIES if sign in seen), "")
    if not remedy and not isinstance(error, redis.ResponseError):
        remedy = "check that redis-server runs, and REDIS_URL"
    return RedisUnavailable(f"{words} ({remedy})" if remedy else words)
