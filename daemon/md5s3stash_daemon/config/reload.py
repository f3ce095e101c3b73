"""SIGHUP: reads the settings again, applies those that can change during work, and logs those that need a restart."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from typing import Any

from md5s3stash.errors import SettingsError
from md5s3stash.notify import Notifier
from md5s3stash.settings import Settings
from md5s3stash_daemon.config.settings import SECTIONS

log = logging.getLogger(__name__)

# These are looked up each time they are needed. The others are built into clients, pools and open directories; a
# restart replaces these more safely than a reload during work.
LIVE = frozenset(
    {
        "spool.rescan_seconds",
        "spool.poll_seconds",
        "spool.settle_seconds",
        "spool.stop_seconds",
        "spool.stuck_seconds",
        "spool.probe_seconds",
        "spool.max_probe_seconds",
        "spool.first_delay_seconds",
        "spool.max_delay_seconds",
        "log.level",
    }
)


def changed_keys(old: Settings, new: Settings) -> list[str]:
    """The settings that differ, as "section.key"."""
    return [
        f"{name}.{field.name}"
        for name, kind in SECTIONS.items()
        for field in dataclasses.fields(kind)
        if getattr(old[kind], field.name) != getattr(new[kind], field.name)
    ]


def merged(old: Settings, new: Settings) -> Settings:
    """The settings after a reload: the new values of LIVE settings, the old ones of all others."""
    sections: dict[type, Any] = {}
    for name, kind in SECTIONS.items():
        live = [field.name for field in dataclasses.fields(kind) if f"{name}.{field.name}" in LIVE]
        sections[kind] = dataclasses.replace(old[kind], **{key: getattr(new[kind], key) for key in live})
    return Settings(sections)


class Reload:
    """To be called for each SIGHUP, by one thread at a time."""

    def __init__(
        self, settings: Settings, read: Callable[[], Settings], apply: Callable[[Settings], object], notifier: Notifier
    ) -> None:
        self._settings = settings
        self._read = read
        self._apply = apply
        self._notifier = notifier

    def __call__(self) -> None:
        self._notifier.reloading()
        try:
            self._take(self._read())
        except SettingsError as error:
            log.error("settings kept, the new ones are not valid: %s", "; ".join(str(error).splitlines()))
        finally:
            self._notifier.ready()

    def _take(self, new: Settings) -> None:
        changed = changed_keys(self._settings, new)
        self._settings = merged(self._settings, new)
        self._apply(self._settings)
        log.info("settings reloaded changed=%s", ",".join(key for key in changed if key in LIVE) or "none")
        late = [key for key in changed if key not in LIVE]
        if late:
            log.warning("needs a restart: %s", ", ".join(late))
