"""Receipts that the box signs: an auditor verifies them with the command of docs/deliveries.md."""

from __future__ import annotations

import contextlib
import json
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import requests

from md5s3stash_daemon.deliveries.journal import Journal, journal_path
from md5s3stash_daemon.deliveries.receipts.receipt import publish
from md5s3stash_daemon.deliveries.receipts.signing import ReceiptNotSigned, signature_of
from md5s3stash_daemon.deliveries.records import FileRow, State
from md5s3stash_daemon.spool.spool import Spool
from tests.support.daemon import Daemon, Site
from tests.support.servers import REPOSITORY, free_port, wait_until


def make_key(path: Path, passphrase: str = "", kind: str = "ed25519") -> Path:
    command = ["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-C", "receipts", "-f", str(path)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, timeout=60)
    return path


@pytest.fixture
def key(tmp_path: Path) -> Path:
    return make_key(tmp_path / "receipts.key")


def verify(receipt: Path, key: Path) -> subprocess.CompletedProcess[str]:
    """Runs the documented commands beside the receipt."""
    lines = (REPOSITORY / "docs" / "deliveries.md").read_text().splitlines()
    [allow] = [line for line in lines if line.endswith(">allowed_signers")]
    [check] = [line for line in lines if line.strip().startswith("ssh-keygen -Y verify")]
    commands = f"{allow}\n{check}\n".replace("/etc/md5s3stash/receipts.key", shlex.quote(str(key)))
    commands = commands.replace("batch7.NUMBER.receipt.json", shlex.quote(receipt.name))
    return subprocess.run(
        ["sh", "-euc", commands], cwd=receipt.parent, check=False, capture_output=True, text=True, timeout=60
    )


def published(spool: Path, key: Path) -> Path:
    """The receipt of a delivery that has ended; may be called again."""
    for folder in ("incoming", "deliveries"):
        (spool / folder).mkdir(exist_ok=True)
    with contextlib.closing(Journal(journal_path(spool))) as journal:
        if not journal.unpublished():
            with journal.transaction():
                number = journal.open("20261129T122000Z-a1b2c3", "vendor/batch", "vendor", 0.0)
                journal.put_file(number, FileRow("a.tif", State.RIGHT, "0" * 32, 5, 0.0))
                journal.update(number, ended=1.0, ended_by="still", verdict="complete", counts='{"right": 1}')
        [delivery] = journal.unpublished()
        return Path(publish(Spool(spool), journal, delivery, lambda md5: f"s3://b/{md5}", signing_key=key))


def test_an_auditor_verifies_a_receipt_and_each_change_shows(tmp_path: Path, key: Path) -> None:
    receipt = published(tmp_path, key)

    good = verify(receipt, key)
    assert good.returncode == 0, good.stderr
    assert good.stdout.startswith('Good "md5s3stash-receipt" signature for spool-1 with ED25519 key SHA256:')
    assert sorted(path.name for path in (tmp_path / "incoming/receipts/vendor").iterdir()) == [
        f"batch.20261129T122000Z-a1b2c3.receipt{suffix}" for suffix in (".html", ".html.sig", ".json", ".json.sig")
    ]

    assert verify(receipt, make_key(tmp_path / "other")).returncode != 0
    receipt.write_bytes(receipt.read_bytes().replace(b'"right"', b'"wrong"', 1))
    assert verify(receipt, key).returncode != 0


def test_a_page_is_signed_too_and_a_repeated_publication_writes_the_same_bytes(tmp_path: Path, key: Path) -> None:
    receipt = published(tmp_path, key)
    files = {path.name: path.read_bytes() for path in receipt.parent.iterdir()}

    published(tmp_path, key)

    assert {path.name: path.read_bytes() for path in receipt.parent.iterdir()} == files
    assert len(files) == 4
    assert verify(receipt.with_suffix(".html"), key).returncode == 0


def test_a_signature_for_another_purpose_is_not_one_of_a_receipt(tmp_path: Path, key: Path) -> None:
    receipt = published(tmp_path, key)
    command = ["ssh-keygen", "-Y", "sign", "-f", str(key), "-n", "file"]
    with receipt.open("rb") as file:
        other = subprocess.run(command, stdin=file, check=True, capture_output=True, timeout=60).stdout
    receipt.with_name(f"{receipt.name}.sig").write_bytes(other)

    assert verify(receipt, key).returncode != 0


def test_a_key_that_cannot_be_used_leaves_no_empty_signature(tmp_path: Path, key: Path) -> None:
    with pytest.raises(ReceiptNotSigned):
        published(tmp_path, tmp_path / "missing")

    assert list(tmp_path.rglob("*.sig")) == []


@pytest.mark.parametrize("fault", ["missing", "passphrase", "not a key", "no ssh-keygen"])
def test_a_key_that_cannot_be_used_is_an_error_that_names_it(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = tmp_path / "key"
    if fault == "passphrase":
        make_key(key, "secret")
    elif fault == "not a key":
        key.write_text("no key")
        key.chmod(0o600)
    elif fault == "no ssh-keygen":
        monkeypatch.setenv("PATH", str(tmp_path))
    file = tmp_path / "receipt"
    file.write_text("{}")

    with pytest.raises(ReceiptNotSigned, match=f"^receipts wait, because they cannot be signed with {key}: .+"):
        signature_of(str(file), key)


def test_receipts_wait_for_a_key_and_the_daemon_says_so(tmp_path: Path, redis_server: str, s3_server: str) -> None:
    site, port, key = Site(tmp_path, redis_server, s3_server), free_port(), tmp_path / "late.key"
    environment = {
        "MD5S3STASH_DELIVERIES_STILL_SECONDS": "3600",
        "MD5S3STASH_DELIVERIES_SIGNING_KEY": str(key),
        "MD5S3STASH_HTTP_PORT": str(port),
    }
    outside = tmp_path / "batch"
    outside.mkdir()
    (outside / "a.tif").write_bytes(b"a")
    (outside / "all.md5").write_text("0cc175b9c0f1b6a831c399e269772661  a.tif\n")

    def notices() -> Any:
        return requests.get(f"http://127.0.0.1:{port}/healthz", timeout=10).json().get("notices", [])

    with Daemon(site, environment) as daemon:
        daemon.wait_until_started()
        outside.rename(site.incoming / "batch")
        wait_until(lambda: notices() != [], "the fault is shown")
        assert str(key) in notices()[0]
        assert list(site.spool.glob("done/*")) == []
        make_key(tmp_path / "made")
        (tmp_path / "made").rename(key)
        wait_until(lambda: notices() == [], "the fault is gone")
        assert daemon.terminate() == 0
        # Said once, not at each attempt.
        assert daemon.output().count("receipts wait") == 1

    [receipt] = site.spool.glob("done/*.receipt.json")
    (tmp_path / "made.pub").rename(f"{key}.pub")
    assert verify(receipt, key).returncode == 0
    assert json.loads(receipt.read_text())["verdict"] == "complete"
