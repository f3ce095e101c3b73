"""Options that are true or false: tornado takes every word for true but three, `off` too."""

from __future__ import annotations

import functools

from tornado.options import OptionParser

from md5s3stash.errors import SettingsError

_MEANINGS = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}


def refuse_unclear_flags(options: OptionParser) -> None:
    """Makes other words an error, on the command line and in the file of --config."""
    # tornado has no public way to give an option another parser.
    for option in options._options.values():
        if option.type is bool:
            option._parse_bool = functools.partial(_meaning, option.name)


def _meaning(name: str, value: str) -> bool:
    if value.lower() not in _MEANINGS:
        raise SettingsError(f"{name} must be true or false, not {value!r}")
    return _MEANINGS[value.lower()]
