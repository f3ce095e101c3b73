"""A box for thumbnails only, launched from the same image, beside the one with the spool."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from botocore.exceptions import ClientError

from tests.acceptance import conftest
from tests.acceptance.box import DAEMON, SETTLED_SECONDS, THUMBNAILERS, Box
from tests.acceptance.cloud import BUCKET, Cloud
from tests.acceptance.conftest import Baked
from tests.acceptance.network import THUMBNAIL_BOX, Network
from tests.acceptance.sabotage import Sabotage
from tests.support.servers import wait_until


@pytest.fixture(scope="module")
def thumbnails(baked: Baked, surroundings: tuple[Network, Cloud], sabotage: Sabotage) -> Iterator[Box]:
    with conftest.thumbnail_box(baked, surroundings, sabotage) as box:
        wait_until(lambda: box.is_active(*THUMBNAILERS), "thumbnail servers", SETTLED_SECONDS)
        yield box


def test_a_box_without_settings_for_a_spool_runs_no_daemon(thumbnails: Box) -> None:
    assert thumbnails.guest.run("systemctl", "is-active", DAEMON, check=False) == "inactive"
    assert thumbnails.guest.run("systemctl", "list-units", "--failed", "--no-legend", "--plain") == ""


def test_it_makes_a_thumbnail_of_what_the_spool_has_stashed(box: Box, thumbnails: Box) -> None:
    (md5,) = box.drop("for-the-other-box", 1).values()
    box.nothing_is_lost()

    assert thumbnails.thumbnail(md5).size == (100, 75)


def test_its_role_reads_and_does_nothing_else(box: Box, thumbnails: Box) -> None:
    (key,) = box.drop("to-be-read", 1).values()
    box.nothing_is_lost()
    s3 = thumbnails.cloud.s3_of(THUMBNAIL_BOX)

    assert s3.get_object(Bucket=BUCKET, Key=key)["ContentLength"] > 0
    with pytest.raises(ClientError, match="AccessDenied"):
        s3.put_object(Bucket=BUCKET, Key="mine", Body=b"")
    with pytest.raises(ClientError, match="AccessDenied"):
        s3.delete_object(Bucket=BUCKET, Key=key)
