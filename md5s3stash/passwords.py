"""Which user name and password go with a source: from the options, the environment or a netrc file."""

from __future__ import annotations

import logging
import netrc
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from md5s3stash.errors import SettingsError

log = logging.getLogger(__name__)

PASSWORD_VARIABLE = "MD5S3STASH_PASSWORD"
DEFAULT_NETRC = "~/.netrc"

Auth = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Passwords:
    """`everywhere` comes from the command line and is used for every URL of the run; netrc entries are by host."""

    everywhere: Auth | None = field(default=None, repr=False)
    by_host: Mapping[str, Auth] = field(default_factory=dict, repr=False)
    default: Auth | None = field(default=None, repr=False)

    @classmethod
    def from_options(
        cls, username: str | None, password: str | None, netrc_file: str | None, environ: Mapping[str, str]
    ) -> Passwords:
        """What -u, -p and --netrc mean together. Raises SettingsError where a part is missing."""
        if username is None:
            if password is not None:
                raise SettingsError("-p needs -u, the user name")
            return cls._from_netrc(netrc_file, None) if netrc_file else cls()
        if ":" in username:
            # RFC 7617 ends the name at the first colon: a server would read the rest as the password.
            raise SettingsError("-u: a user name for Basic authentication cannot hold a colon")
        if password is None:
            password = environ.get(PASSWORD_VARIABLE)
        if password is not None:
            return cls(everywhere=(username, password))
        found = cls._from_netrc(netrc_file or DEFAULT_NETRC, username, must_exist=netrc_file is not None)
        if not found.by_host and found.default is None:
            file = netrc_file or DEFAULT_NETRC
            raise SettingsError(f"no password for -u {username}: set {PASSWORD_VARIABLE}, or add the host to {file}")
        return found

    @classmethod
    def _from_netrc(cls, file: str, username: str | None, *, must_exist: bool = True) -> Passwords:
        path = os.path.expanduser(file)
        try:
            check_permissions(path, file)
            hosts = netrc.netrc(path).hosts
        except FileNotFoundError:
            if must_exist:
                raise SettingsError(f"--netrc {file}: there is no such file") from None
            return cls()
        except (OSError, UnicodeDecodeError, netrc.NetrcParseError) as error:
            # The parser's own message may quote the line, password and all.
            where = f" in line {error.lineno}" if isinstance(error, netrc.NetrcParseError) and error.lineno else ""
            raise SettingsError(f"{file} cannot be read as a netrc file{where}") from None
        entries = {
            host.lower(): (login, secret) for host, (login, _, secret) in hosts.items() if username in (None, login)
        }
        default = entries.pop("default", None)
        return cls(by_host=entries, default=default)

    def for_source(self, source: str) -> Auth | None:
        """The credentials for a URL; None for anything that is not one.

        Entries of a netrc file are used for https only. A name from the command line is used for http URLs too; the
        fetch then refuses to send it in the clear and reports that.
        """
        scheme = source.partition(":")[0].lower()
        if scheme not in ("http", "https"):
            return None
        if self.everywhere is not None:
            return self.everywhere
        try:
            host = urlsplit(source).hostname or ""
        except ValueError:
            return None
        return self.by_host.get(host, self.default) if scheme == "https" else None


def check_permissions(path: str, file: str) -> None:
    """Raises SettingsError if others may read the default file (the rule of ftp(1)), OSError if the file is missing.

    A file that the user named only causes a warning: a container's secrets have modes that its user did not choose.
    """
    status = os.stat(path)
    # A pipe (`--netrc <(...)`) belongs to no other user.
    if not stat.S_ISREG(status.st_mode) or not status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        return
    if file == DEFAULT_NETRC:
        raise SettingsError(f"{file} holds passwords and is open to other users: chmod 600 {file}")
    log.warning("%s holds passwords and is open to other users", file)
