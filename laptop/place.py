"""The data directory and the ports of the appliance, checked and parsed from the environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from laptop.errors import LaptopError

REPOSITORY = Path(__file__).resolve().parent.parent
BUCKET = "md5s3stash-laptop"
ADDRESS = "127.0.0.1"

# sun_path of unix(7) holds 108 bytes, including the closing zero. supervisord first creates its socket with its process
# id behind the name (".4194304"), then links it to the name.
_LONGEST_SOCKET_PATH = 107 - 8


@dataclass(frozen=True, slots=True)
class Port:
    """One port: its number, the program that listens on it, and the variable that changes it."""

    number: int
    program: str
    variable: str


@dataclass(frozen=True, slots=True)
class Place:
    """The data directory and the four ports."""

    data: Path
    thumbnailer: Port
    s3: Port
    redis: Port
    metrics: Port

    @property
    def ports(self) -> tuple[Port, ...]:
        return (self.thumbnailer, self.s3, self.redis, self.metrics)

    @property
    def spool(self) -> Path:
        return self.data / "spool"

    @property
    def incoming(self) -> Path:
        return self.spool / "incoming"

    @property
    def logs(self) -> Path:
        return self.data / "log"

    @property
    def run(self) -> Path:
        return self.data / "run"

    @property
    def objects(self) -> Path:
        return self.data / "s3"

    @property
    def redis_data(self) -> Path:
        return self.data / "redis"

    @property
    def cache(self) -> Path:
        return self.data / "cache"

    @property
    def control_socket(self) -> Path:
        return self.run / "supervisor.sock"

    @property
    def shell_environment(self) -> Path:
        return self.run / "env.sh"

    @property
    def s3_url(self) -> str:
        return f"http://{ADDRESS}:{self.s3.number}"

    @property
    def redis_url(self) -> str:
        return f"redis://{ADDRESS}:{self.redis.number}/0"

    @property
    def thumbnailer_url(self) -> str:
        return f"http://{ADDRESS}:{self.thumbnailer.number}"

    @property
    def status_url(self) -> str:
        return f"http://{ADDRESS}:{self.metrics.number}/"

    def thumbnail_url(self, content: str) -> str:
        """A thumbnail that shows the whole picture of `{collection}/{md5}` or `{md5}`."""
        return f"{self.thumbnailer_url}/clip/480x480/{content}"

    def log_of(self, program: str) -> Path:
        return self.logs / f"{program}.log"

    def make_directories(self) -> None:
        """Everything but the spool, which the daemon creates. Raises LaptopError if a directory cannot be created."""
        try:
            for directory in (self.logs, self.objects, self.redis_data, self.run):
                directory.mkdir(parents=True, exist_ok=True)
            # It holds credentials.
            self.run.chmod(0o700)
        except OSError as error:
            raise LaptopError(
                f"The data directory {self.data} cannot be used: {error.strerror}. Set DATA_DIR to another."
            ) from error


def place_from(environment: Mapping[str, str]) -> Place:
    """Reads DATA_DIR, THUMBNAILER_PORT, S3_PORT, REDIS_PORT and METRICS_PORT; raises LaptopError for invalid ones."""
    data = Path(environment.get("DATA_DIR") or REPOSITORY / "var").expanduser().absolute()
    place = Place(
        data,
        thumbnailer=_port(environment, "THUMBNAILER_PORT", 8888, "the thumbnailer"),
        s3=_port(environment, "S3_PORT", 9000, "the S3 server"),
        redis=_port(environment, "REDIS_PORT", 6399, "redis"),
        metrics=_port(environment, "METRICS_PORT", 9108, "the daemon"),
    )
    if len({port.number for port in place.ports}) < len(place.ports):
        chosen = ", ".join(f"{port.variable}={port.number}" for port in place.ports)
        raise LaptopError(f"Each program needs a port of its own, but some are equal: {chosen}.")
    if len(bytes(place.control_socket)) > _LONGEST_SOCKET_PATH:
        raise LaptopError(
            f"The path of the data directory, {data}, is too long for a socket in it: set DATA_DIR to a shorter one."
        )
    return place


def _port(environment: Mapping[str, str], variable: str, default: int, program: str) -> Port:
    text = environment.get(variable) or str(default)
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 65535:
        raise LaptopError(f"{variable}={text} is not a port: set it to a number from 1 to 65535.")
    return Port(int(text), program, variable)
