"""The playbook's module: when a unit must be restarted. The acceptance tests check that it does so."""

from __future__ import annotations

import importlib.util
import os
import sys
import time
import types
from pathlib import Path
from typing import Any

import pytest

FILE = Path(__file__).resolve().parents[2] / "ansible/library/unit_up_to_date.py"
# The boot in seconds of the wall clock; the others in seconds of the monotonic clock.
BOOTED = 1_800_000_000.0
STARTED, CONDITION, CHANGED = 100.0, 99.0, 200.0


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module with a stub of Ansible, which has its own environment."""
    basic = types.ModuleType("ansible.module_utils.basic")
    basic.AnsibleModule = object  # type: ignore[attr-defined]
    for name in ("ansible", "ansible.module_utils"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, basic.__name__, basic)
    spec = importlib.util.spec_from_file_location("unit_up_to_date", FILE)
    assert spec
    assert spec.loader
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def unit(state: str = "active", condition: float = CONDITION) -> dict[str, str]:
    return {
        "ActiveState": state,
        "ActiveEnterTimestampMonotonic": f"{STARTED * 1e6:.0f}",
        "ConditionTimestampMonotonic": f"{condition * 1e6:.0f}",
        "StateChangeTimestampMonotonic": f"{CHANGED * 1e6:.0f}",
    }


@pytest.mark.parametrize(
    ("state", "changed", "running", "by_reload", "outdated"),
    [
        ("active", STARTED - 1, "2", False, False),
        ("active", STARTED + 1, "2", False, True),
        ("reloading", STARTED - 1, "2", False, False),
        # A reload changes the state, and is enough for some units.
        ("active", STARTED + 1, "2", True, False),
        ("active", CHANGED + 1, "2", True, True),
        ("active", STARTED - 1, "1", False, True),
        ("active", STARTED - 1, "", False, True),
        ("failed", STARTED - 1, "", False, True),
        ("activating", STARTED - 1, "", False, True),
        # An operator stopped it, or its condition does not hold.
        ("inactive", CONDITION - 1, "", False, False),
        ("inactive", CONDITION + 1, "", False, True),
    ],
)
def test_unit_is_started_again_where_it_runs_with_less_than_is_there(
    module: Any, state: str, changed: float, running: str, by_reload: bool, outdated: bool
) -> None:
    reason = module.why_outdated(unit(state), BOOTED + changed, "2", running, by_reload, BOOTED)

    assert bool(reason) is outdated


def test_unit_that_was_never_started_is(module: Any) -> None:
    assert module.why_outdated(unit("inactive", 0), BOOTED - 1e6, "2", "", False, BOOTED)


def test_file_counts_from_its_last_change_and_a_link_as_itself(module: Any, tmp_path: Path) -> None:
    old, link = tmp_path / "old", tmp_path / "link"
    old.write_text("")
    os.utime(old, (1, 1))
    link.symlink_to("nowhere")

    assert module.newest([str(old)]) > time.time() - 60, "a file that is moved or copied back keeps its mtime"
    assert module.newest([str(link)]) == link.lstat().st_ctime
    assert module.newest([str(tmp_path / "none")]) == 0


def test_release_of_a_process_is_the_one_in_its_command(module: Any) -> None:
    assert module.running_release(os.getpid()) == ""
    assert module.running_release(2**22 + 1) == ""
