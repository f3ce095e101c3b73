"""docs/settings.md and docs/metrics.md match the code: every setting with its default, every metric."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from md5s3stash.retry import RetryPolicy
from md5s3stash.settings import variables_of
from md5s3stash_daemon.config.load import toml_value
from md5s3stash_daemon.config.reload import LIVE
from md5s3stash_daemon.config.settings import SECTIONS
from md5s3stash_daemon.fixity.summary import summary_of
from md5s3stash_daemon.monitoring.metrics import Metrics
from md5s3stash_daemon.monitoring.undelivered import Notices
from md5s3stash_daemon.runtime.circuit_breaker import CircuitBreaker
from md5s3stash_daemon.spool.spool import Spool
from md5s3stash_daemon.spool.waiting import WaitingFiles

DOCS = Path(__file__).resolve().parents[2] / "docs"


def table_of(section: str) -> str:
    """The expected table of a section in docs/settings.md."""
    head = ["| Key | Environment | Default | Meaning | Takes effect |", "|---|---|---|---|---|"]
    return "\n".join([*head, *(_row(section, field) for field in dataclasses.fields(SECTIONS[section]))])


def _row(section: str, field: dataclasses.Field[Any]) -> str:
    variables = " or ".join(f"`{name}`" for name in reversed(variables_of(section, field)))
    default = "not set" if field.default is None else f"`{toml_value(field.default)}`"
    effect = "SIGHUP" if f"{section}.{field.name}" in LIVE else "restart"
    return f"| `{field.name}` | {variables} | {default} | {field.metadata['help']} | {effect} |"


def documented_tables(text: str) -> dict[str, str]:
    """Section -> its table on the page."""
    found = re.findall(r"^## \[(\w+)\]\n.*?\n(\|.*?\|)\n(?=\n|\Z)", text, re.MULTILINE | re.DOTALL)
    return dict(found)


@pytest.mark.parametrize("section", SECTIONS)
def test_every_setting_of_a_section_is_documented_as_it_is(section: str) -> None:
    tables = documented_tables((DOCS / "settings.md").read_text())

    assert tables.get(section) == table_of(section), f"paste this below ## [{section}]:\n{table_of(section)}"


def test_no_section_is_documented_that_is_gone() -> None:
    assert set(documented_tables((DOCS / "settings.md").read_text())) == set(SECTIONS)


def test_keys_that_a_reload_changes_are_settings() -> None:
    keys = {f"{section}.{field.name}" for section, kind in SECTIONS.items() for field in dataclasses.fields(kind)}

    assert keys >= LIVE


def test_every_metric_is_documented_and_no_other(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.create()
    metrics = Metrics()
    metrics.watch_spool(spool, CircuitBreaker({}, RetryPolicy))
    metrics.watch_redis(frozenset)
    metrics.watch_look(())
    metrics.watch_provenance(lambda: 0.0)
    metrics.watch_fixity(summary_of(tmp_path, 90).numbers)
    metrics.watch_notices(lambda: [Notices("email", 0, 0.0, 0, "")])
    metrics.watch_waiting(WaitingFiles().counts)
    told = set(re.findall(r"^# TYPE (md5s3stash_\w+) ", metrics.exposition().decode(), re.MULTILINE))
    documented = set(re.findall(r"^\| `(md5s3stash_\w+)`", (DOCS / "metrics.md").read_text(), re.MULTILINE))

    # The client adds a separate series with a counter's creation time.
    assert {name for name in told if not name.endswith("_created")} == documented
