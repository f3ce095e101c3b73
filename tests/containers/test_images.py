"""The images, built and run without an engine: `make container-test`. Takes minutes; needs root and a network."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import io
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import PIL.Image
import PIL.ImageOps
import pytest

from containers.chroot import build
from md5s3stash.processors import usable_processors
from md5s3stash.sealed import process
from tests.support.containers import Container, Service, services, started, with_settings
from tests.support.http_server import HttpServer
from tests.support.namespaces import wired
from tests.support.servers import REPOSITORY, wait_until
from tests.thumbnailer.ssim import ssim

# Not in the passwd file of the image: any user of the host may be the one who drops files.
DROPPER = 23456
SAMPLES = REPOSITORY / "samples"
THUMBNAILS = 8888
STATUS_PAGE = 9108
# On a machine with much else to do.
HEALTHY_SECONDS = 240
IMAGES = ("daemon", "thumbnailer", "thumbnailer-faces", "thumbnailer-video", "redis", "s3")


@dataclass(frozen=True, slots=True)
class Stack:
    """All services of the compose file."""

    services: dict[str, Service]
    containers: dict[str, Container]
    spool: Path

    def drop(self, sample: str) -> str:
        """Drops a sample, as `drop_content` does."""
        return self.drop_content(sample, (SAMPLES / sample).read_bytes())

    def drop_content(self, name: str, content: bytes) -> str:
        """Drops a file as a producer does, in a program of another user than root; returns the md5."""
        words = ["setpriv", f"--reuid={DROPPER}", f"--regid={DROPPER}", "--clear-groups", "sh", "-c"]
        target = self.spool / "incoming" / name
        subprocess.run([*words, f"umask 077; cat >{target}"], input=content, check=True)
        return hashlib.md5(content).hexdigest()

    def thumbnail(self, md5: str, shape: str = "clip/100x100", query: str = "") -> tuple[int, bytes]:
        return _get(THUMBNAILS, f"/{shape}/{md5}{query}")

    def start(self, name: str) -> None:
        """Starts a service again that has ended."""
        self.containers[name] = Container(self.services[name])
        wait_until(self.containers[name].is_healthy, f"{name} is healthy again", HEALTHY_SECONDS)

    @contextlib.contextmanager
    def instead_of_thumbnailer(self, service: Service) -> Iterator[Container]:
        """Another thumbnail server, on the same port."""
        self.containers["thumbnailer"].terminate()
        try:
            with started([service]) as running:
                wait_until(running[service.name].is_healthy, "the thumbnail server is healthy", HEALTHY_SECONDS)
                yield running[service.name]
        finally:
            self.start("thumbnailer")

    def is_stashed(self, md5: str) -> bool:
        """Whether the whole object is there."""
        stored = self.services["s3"].volumes["/objects"] / "md5s3stash" / md5
        return stored.exists() and hashlib.md5(stored.read_bytes()).hexdigest() == md5


@pytest.fixture(scope="module")
def images() -> None:
    """Built outside of the network of the others, which has no way out."""
    for name in IMAGES:
        build(name)


@pytest.fixture(scope="module")
def network(images: None) -> Iterator[None]:
    with wired(0) as (hub, _), hub.inside():
        yield


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    """Not below pytest's own, which each further pytest of this user closes to the producer's program."""
    with tempfile.TemporaryDirectory(prefix="md5s3stash-compose-") as name:
        os.chmod(name, 0o711)
        yield Path(name)


@pytest.fixture(scope="module")
def stack(network: None, directory: Path) -> Iterator[Stack]:
    composed = services(directory, {"DROP_USER": f"{DROPPER}:{DROPPER}"})
    with started(list(composed.values())) as containers:
        running = Stack(composed, containers, composed["daemon"].volumes["/var/spool/md5s3stash"])
        for name in ("redis", "daemon", "thumbnailer"):
            wait_until(containers[name].is_healthy, f"{name} is healthy", HEALTHY_SECONDS)
        wait_until((running.spool / "incoming").is_dir, "the daemon has made its directories")
        yield running


def test_a_dropped_file_is_stashed_and_its_thumbnail_served(stack: Stack) -> None:
    md5 = stack.drop("landscape.jpg")

    wait_until(lambda: stack.thumbnail(md5)[0] == 200, "there is a thumbnail")

    assert stack.thumbnail(md5)[1].startswith(b"\xff\xd8")
    wait_until(lambda: not (stack.spool / "incoming/landscape.jpg").exists(), "the file has left the spool")


@pytest.mark.parametrize("sample", ["leaflet.pdf", "emblem.svg", "phone.heic", "scan.tif", "mosaic.webp"])
def test_every_kind_of_picture_has_a_thumbnail(stack: Stack, sample: str) -> None:
    md5 = stack.drop(sample)

    wait_until(lambda: stack.thumbnail(md5)[0] == 200, f"there is a thumbnail of {sample}")


def test_the_command_stashes_a_file(stack: Stack) -> None:
    daemon = stack.services["daemon"]
    given = daemon.volumes["/var/tmp"] / "given.txt"
    given.write_bytes(b"by the command\n")

    done = subprocess.run(
        daemon.command("md5s3stash", "/var/tmp/given.txt"), capture_output=True, text=True, check=True, timeout=120
    )

    md5 = hashlib.md5(b"by the command\n").hexdigest()
    assert done.stdout == f"/var/tmp/given.txt\t{md5}\ts3://md5s3stash/{md5}\ttext/plain\n"
    assert stack.is_stashed(md5)


def test_no_process_is_root_or_has_a_capability(stack: Stack) -> None:
    for name, container in stack.containers.items():
        processes = container.processes()
        assert processes, name
        for pid in processes:
            with contextlib.suppress(FileNotFoundError):
                fields = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
                assert set(fields["Uid"].split()) == {str(container.service.user[0])} != {"0"}, name
                assert {fields[f"Cap{kind}"] for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {"0" * 16}, name
                assert fields["NoNewPrivs"] == "1", name


def test_only_the_volumes_can_be_written_to(stack: Stack) -> None:
    for name, container in stack.containers.items():
        pruned = [word for path in ("/proc", "/sys", *container.service.writable) for word in ("-path", path, "-o")]
        found = container.execute(
            *("find", "/", "(", *pruned[:-1], ")", "-prune", "-o", "(", "-type", "d", "-o", "-type", "f", ")"),
            # The devices in /dev are mounted on files.
            *("-writable", "-not", "-exec", "test", "-c", "{}", ";", "-print"),
        )
        assert found.stdout == "", name
        for path in container.service.volumes:
            assert container.execute("test", "-w", path).returncode == 0, (name, path)


def test_the_render_processes_are_sealed_as_on_a_host(stack: Stack) -> None:
    health = json.loads(_get(THUMBNAILS, "/healthz")[1])

    assert health["status"] == "ok"
    assert health.get("workers_not_sealed", []) == process.missing()


def test_the_daemon_stays_healthy_and_loses_nothing_while_s3_is_out(stack: Stack) -> None:
    assert stack.containers["s3"].terminate() >= 0
    daemon = stack.containers["daemon"]
    md5 = stack.drop("notes.txt")

    wait_until(lambda: _health_of_daemon()["status"] == "failing", "the daemon waits for S3")
    assert daemon.is_healthy()
    stack.containers["s3"] = Container(stack.services["s3"])

    wait_until(lambda: stack.is_stashed(md5), "the file is stashed", 120)
    wait_until(lambda: _health_of_daemon()["status"] == "ok", "the daemon works again", 120)


def test_a_stopped_program_is_not_healthy(stack: Stack) -> None:
    daemon = stack.containers["daemon"]

    assert daemon.execute("healthy", "1").returncode == 1


def test_sigterm_ends_each_program_with_status_0_and_its_data_stay(stack: Stack) -> None:
    md5 = stack.drop("gradient.jpg")
    wait_until(lambda: stack.is_stashed(md5), "the file is stashed")
    for name in ("thumbnailer", "daemon", "redis"):
        assert stack.containers[name].terminate() == 0, name

    for name in ("redis", "daemon", "thumbnailer"):
        stack.start(name)

    looked_up = stack.containers["daemon"].execute("md5s3stashctl", "lookup", "gradient.jpg")
    assert f"md5         {md5}\n" in looked_up.stdout, looked_up.stderr
    assert stack.thumbnail(md5)[0] == 200


def test_process_1_leaves_no_dead_process_unreaped(stack: Stack) -> None:
    for name, container in stack.containers.items():
        wait_until(lambda c=container: not _dead(c), f"no dead process is left in {name}")  # type: ignore[misc]


def test_keys_come_from_the_role_of_a_task(stack: Stack) -> None:
    """As ECS gives them to a container; there the address is 169.254.170.2."""
    keys = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    thumbnailer = stack.services["thumbnailer"]
    md5 = stack.drop("portrait.jpg")
    wait_until(lambda: stack.is_stashed(md5), "the file is stashed")
    for cached in thumbnailer.volumes["/var/cache/md5s3stash-thumbnailer"].iterdir():
        shutil.rmtree(cached) if cached.is_dir() else cached.unlink()

    with _role([thumbnailer.environment[key] for key in keys]) as address:
        role = with_settings(thumbnailer, "role", {"AWS_CONTAINER_CREDENTIALS_FULL_URI": address}, without=keys)
        with stack.instead_of_thumbnailer(role):
            assert stack.thumbnail(md5)[0] == 200


def test_a_video_has_a_still_in_the_image_with_ffmpeg(stack: Stack) -> None:
    md5 = stack.drop("flight.mp4")
    wait_until(lambda: stack.is_stashed(md5), "the file is stashed")
    thumbnailer = stack.services["thumbnailer"]
    assert stack.thumbnail(md5)[0] == 415
    video = replace(thumbnailer, name="video", image=build("thumbnailer-video"))

    with stack.instead_of_thumbnailer(video) as running:
        assert stack.thumbnail(md5)[0] == 200
        wait_until(lambda: not _dead(running), "no dead process is left")


def test_a_crop_by_faces_needs_the_image_that_has_opencv(stack: Stack) -> None:
    md5 = stack.drop_content("face.jpg", _face_at_the_left())
    wait_until(lambda: stack.is_stashed(md5), "the file is stashed")
    thumbnailer = stack.services["thumbnailer"]
    assert _missing()["faces"] == "the package opencv-python-headless is not installed"
    centred, by_faces = (_crop(stack, md5, query) for query in ("", "?pos=face"))
    assert ssim(by_faces, centred) > 0.9

    with stack.instead_of_thumbnailer(replace(thumbnailer, name="faces", image=build("thumbnailer-faces"))):
        assert "faces" not in _missing()
        assert ssim(_crop(stack, md5, "?pos=face"), centred) < 0.8


def test_a_quota_of_processors_is_counted(stack: Stack) -> None:
    count = "from md5s3stash.processors import usable_processors; print(usable_processors())"
    words = stack.services["thumbnailer"].command("/opt/md5s3stash/bin/python", "-c", count)

    with _quota_of_one_processor() as group:
        join = ["sh", "-c", f'echo $$ >{group}/cgroup.procs && exec "$@"', "sh"]
        limited = subprocess.run([*join, *words], capture_output=True, text=True, check=True, timeout=60)
    free = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60)

    assert (limited.stdout, free.stdout) == ("1\n", f"{usable_processors()}\n")


@pytest.mark.parametrize("name", ["daemon", "thumbnailer"])
def test_an_image_takes_less_room_than_promised(name: str) -> None:
    assert build(name).megabytes < 250


def _get(port: int, path: str) -> tuple[int, bytes]:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()


def _face_at_the_left() -> bytes:
    with PIL.Image.open(SAMPLES / "portrait.jpg") as portrait:
        face = PIL.ImageOps.exif_transpose(portrait)
    scene = PIL.Image.new("RGB", (3 * face.width, face.height), "grey")
    scene.paste(face, (0, 0))
    content = io.BytesIO()
    scene.save(content, "JPEG")
    return content.getvalue()


def _crop(stack: Stack, md5: str, query: str) -> PIL.Image.Image:
    status, body = stack.thumbnail(md5, "crop/100x100", query)
    assert status == 200, body
    return PIL.Image.open(io.BytesIO(body))


def _missing() -> dict[str, str]:
    """What the thumbnail server cannot do because something is not installed, with the reason."""
    missing: dict[str, str] = json.loads(_get(THUMBNAILS, "/healthz")[1]).get("missing", {})
    return missing


@contextlib.contextmanager
def _quota_of_one_processor() -> Iterator[Path]:
    """A control group as `docker run --cpus 1` makes it."""
    version_1 = Path("/sys/fs/cgroup/cpu")
    group = (version_1 if version_1.is_dir() else version_1.parent) / f"md5s3stash-test-{os.getpid()}"
    group.mkdir()
    try:
        if version_1.is_dir():
            (group / "cpu.cfs_quota_us").write_text("100000")
        else:
            (group / "cpu.max").write_text("100000 100000")
        yield group
    finally:
        group.rmdir()


def _health_of_daemon() -> dict[str, object]:
    health: dict[str, object] = json.loads(_get(STATUS_PAGE, "/healthz")[1])
    return health


def _dead(container: Container) -> list[int]:
    found = []
    for pid in container.processes():
        with contextlib.suppress(FileNotFoundError):
            if "State:\tZ" in Path(f"/proc/{pid}/status").read_text():
                found.append(pid)
    return found


@contextlib.contextmanager
def _role(keys: list[str]) -> Iterator[str]:
    """Serves credentials as the agent of ECS; yields its address."""
    body = json.dumps(
        {"AccessKeyId": keys[0], "SecretAccessKey": keys[1], "Token": "t", "Expiration": "2999-01-01T00:00:00Z"}
    ).encode()

    class Agent(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    with HttpServer(Agent) as agent:
        yield f"http://127.0.0.1:{agent.port}/role"
