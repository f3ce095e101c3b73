#!/usr/bin/python3
"""Restarts a unit that runs an older state than the one on disk: an older release, older settings, an older unit file.

It compares states. A handler is notified of a change only once; if the run ends before it, the notification is lost.
"""

from __future__ import annotations

import os
import re
import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: unit_up_to_date
short_description: Restarts a systemd unit that started before its files were changed
description:
  - A unit that is inactive because an operator stopped it, or because its condition is not met, is left alone until its
    files change.
options:
  name:
    description: The unit.
    type: str
    required: true
  files:
    description: Files that it reads at its start, beside its unit file and drop-ins. A missing file counts as old.
    type: list
    elements: path
    default: []
  release:
    description: The link to the release that its process has to run from.
    type: path
  reload:
    description: Whether a reload is enough.
    type: bool
    default: false
"""

PROPERTIES = (
    "ActiveState,ActiveEnterTimestampMonotonic,ConditionResult,ConditionTimestampMonotonic,DropInPaths,FragmentPath,"
    "MainPID,NeedDaemonReload,StateChangeTimestampMonotonic"
)
_RELEASE_OF_COMMAND = re.compile(rb"/releases/([^/\0]+)/")


def newest(files: list[str]) -> float:
    """The latest change of one of the files; links are not followed."""
    return max((os.lstat(file).st_ctime for file in files if os.path.lexists(file)), default=0.0)


def running_release(pid: int) -> str:
    """The release that a process was started from; empty if none."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as command:
            found = _RELEASE_OF_COMMAND.search(command.read())
    except OSError:
        return ""
    return found.group(1).decode() if found else ""


def why_outdated(
    unit: dict[str, str], changed: float, wanted: str, running: str, by_reload: bool, offset: float
) -> str:
    """Why a unit must be restarted; empty if it is up to date. `offset` is the wall clock minus the monotonic clock,
    which systemd's times use.
    """

    def moment(name: str) -> float:
        return offset + int(unit[f"{name}TimestampMonotonic"]) / 1e6 if int(unit[f"{name}TimestampMonotonic"]) else 0.0

    if wanted and unit["ActiveState"] in ("failed", "activating"):
        return f"it is {unit['ActiveState']}"
    if unit["ActiveState"] in ("inactive", "failed"):
        return "its files changed after it was started last" if changed > moment("Condition") else ""
    if wanted and running != wanted:
        return f"it runs {running or 'no release'} and not {wanted}"
    begun = max(moment("ActiveEnter"), moment("StateChange") if by_reload else 0.0)
    return "its files changed after it was started" if changed > begun else ""


class Unit:
    """A unit, by systemctl."""

    def __init__(self, module: Any) -> None:
        self._module = module
        self.name = module.params["name"]
        link = module.params["release"]
        self.wanted = os.path.basename(os.path.realpath(link)) if link and os.path.lexists(link) else ""

    def systemctl(self, *words: str, check: bool = True) -> str:
        return str(self._module.run_command(["systemctl", *words], check_rc=check)[1])

    def properties(self) -> dict[str, str]:
        lines = self.systemctl("show", f"--property={PROPERTIES}", self.name).splitlines()
        return dict(line.split("=", 1) for line in lines)

    def reason(self) -> str:
        unit = self.properties()
        if unit["NeedDaemonReload"] == "yes" and not self._module.check_mode:
            self.systemctl("daemon-reload")
            unit = self.properties()
        paths = [unit["FragmentPath"], *unit["DropInPaths"].split(), *self._module.params["files"]]
        running = running_release(int(unit.get("MainPID", "0")))
        offset = time.time() - time.monotonic()
        return why_outdated(unit, newest(paths), self.wanted, running, self._module.params["reload"], offset)

    def start_again(self) -> None:
        verb = "reload-or-restart" if self._module.params["reload"] else "restart"
        code, _, said = self._module.run_command(["systemctl", verb, self.name])
        unit = self.properties()
        if code == 0 and unit["ActiveState"] == "inactive" and unit["ConditionResult"] == "no":
            return  # Its condition does not hold on this box.
        running = running_release(int(unit.get("MainPID", "0")))
        if code != 0 or unit["ActiveState"] == "failed" or (self.wanted and running != self.wanted):
            log = self._module.run_command(["journalctl", f"--unit={self.name}", "--lines=5", "--output=cat"])[1]
            what = f"{self.name} does not run {self.wanted}" if self.wanted else f"{self.name} does not run"
            self._module.fail_json(
                msg=f"{what}: {said.strip() or unit['ActiveState']}. Fix the error in its log and run the playbook "
                f"again. The end of the log: {log.strip()}"
            )


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "files": {"type": "list", "elements": "path", "default": []},
            "release": {"type": "path"},
            "reload": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    unit = Unit(module)
    reason = unit.reason()
    if reason and not module.check_mode:
        unit.start_again()
    module.exit_json(changed=bool(reason), reason=reason, release=unit.wanted)


if __name__ == "__main__":
    main()
