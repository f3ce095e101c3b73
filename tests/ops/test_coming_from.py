"""docs/coming-from.md: each row of its tables has a test that proves it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import md5s3stash
from md5s3stash.errors import SettingsError, StashError, StoreRefused, StoreUnavailable
from md5s3stash.scheme import SHARD_ALPHABET, BucketScheme
from md5s3stash_thumbnailer.config.place import Stash
from tests.support.digest_s3 import DigestS3
from tests.support.origin import Origin, Reply
from tests.support.servers import REPOSITORY
from tests.support.stores import Keys, plain_client
from tests.thumbnailer.conftest import picture, thumbnailer

PAGE = (REPOSITORY / "docs" / "coming-from.md").read_text()

HERE = "ops/test_coming_from.py"
CALLERS = "core/test_callers_of_2014.py"

# The beginning of each row, and the test that proves it.
PROOFS = {
    "`conn` is a boto connection": "core/test_library.py::test_conn_is_a_client_a_session_or_nothing",
    "`md5s3stash.py url`": (
        "core/test_cli.py::test_a_file_a_url_a_file_url_and_a_failing_url_give_three_lines_and_one_error"
    ),
    "`python thumbnail.py --position=face`": f"{CALLERS}::test_thumbnail_server_starts_under_its_old_name",
    "without `BUCKET_SCHEME`": f"{HERE}::test_without_a_scheme_the_thumbnail_server_reads_from_buckets_that_exist",
    "`/clip/50x50/None` is an error": (
        "thumbnailer/test_http.py::test_placeholder_is_shown_for_an_unknown_digest_and_for_none"
    ),
    "`-s multivalue`": "core/test_cli.py::test_the_old_name_of_a_scheme_stores_into_the_bucket_of_the_shard",
    "a `TypeError` when a download fails": f"{CALLERS}::test_failed_source_is_caught_as_it_was",
    "without `url_cache` and `hash_cache`": f"{HERE}::test_without_caches_no_call_knows_of_another",
    "`md5_to_http_url(": f"{CALLERS}::test_formulas_give_what_they_gave",
    "`md5_to_s3_url` of": f"{CALLERS}::test_prefix_with_the_default_scheme_is_refused_with_the_scheme_to_pass",
    "`mime_type` is None": "core/test_library.py::test_what_is_no_picture_has_no_dimensions",
    "a thumbnail server with the collection": (
        "thumbnailer/test_site.py::test_a_picture_is_found_in_its_collection_and_nowhere_else"
    ),
    "pictures of PDFs and videos": (
        "thumbnailer/test_site.py::test_only_below_the_prefixes_of_derivatives_may_bytes_differ_from_the_md5"
    ),
    "the harvester's": (
        "core/test_component.py::test_a_component_has_the_fields_of_the_harvester_and_comes_back_from_the_cache"
    ),
    "Basic authentication over http": "core/test_cli.py::test_a_password_never_goes_over_http",
    "`https://user:secret@host/`": "core/test_source.py::test_anything_else_is_refused",
    "dictionaries of redis-collections": f"{CALLERS}::test_dictionaries_of_redis_collections_are_caches_as_they_were",
    "`LIVE_REDIS_TEST`": f"{HERE}::test_no_test_reads_live_redis_test",
    "caches that contain pickles": "core/test_cache.py::test_an_entry_that_is_no_json_is_a_miss",
    "a `hash_cache` for several bases": (
        "core/test_library.py::test_two_bases_with_the_same_caches_both_hold_the_object"
    ),
    "`/?url=https://…/MD5&": (
        "thumbnailer/test_http.py::test_addresses_of_pilbox_are_answered_behind_the_documented_rewrite"
    ),
    "`/?url=` of the origin": "thumbnailer/test_site.py::test_a_url_that_was_stashed_leads_to_its_picture",
    "no `mode`": "thumbnailer/test_thumbnails.py::test_mode_and_sizes_give_the_pixels_of_pilbox",
    "no `h`": "thumbnailer/test_request.py::test_zero_follows_from_the_other_side",
    "`pos bg q": "thumbnailer/test_render_like_pilbox.py::test_pictures_are_those_of_plain_pilbox",
    "fetches originals from any URL": "thumbnailer/test_thumbnails.py::test_url_in_the_query_is_never_fetched",
    "`client`, `sig`": "thumbnailer/test_signed_url.py::test_pilbox_signature_stays_for_old_callers",
    "a PDF, an SVG or a HEIC": "thumbnailer/test_kinds.py::test_every_kind_is_shown_and_counted",
    "Python 2 or Pillow 9.5": (
        "thumbnailer/test_server.py::test_missing_pilbox_is_one_line_with_the_command_that_installs_it"
    ),
    "one request decodes": (
        "thumbnailer/test_server.py::test_worker_that_crashes_while_it_renders_costs_that_request_alone"
    ),
    "no caching headers": "thumbnailer/test_thumbnails.py::test_success_can_be_cached_for_ever",
    "key": "daemon/test_service.py::test_a_dropped_file_is_stashed_recorded_and_removed",
    "moved or renamed file": (
        "daemon/test_confirmed.py::test_a_content_that_was_confirmed_costs_no_request_and_is_recorded_like_any"
    ),
    "the same file in ten folders": (
        "daemon/test_confirmed.py::test_a_content_that_was_confirmed_costs_no_request_and_is_recorded_like_any"
    ),
    "changed file": (
        "daemon/test_service.py::test_the_same_name_dropped_again_while_the_first_is_under_way_loses_neither"
    ),
    "integrity": "core/test_s3.py::test_every_guard_travels_with_the_put",
    "list of the files": "daemon/test_ctl.py::test_export_has_each_mapping_once_in_both_forms",
    "a mirror that one can browse": "daemon/test_service.py::test_a_dropped_file_is_stashed_recorded_and_removed",
}


def rows() -> list[str]:
    """The first cell of each row."""
    cells = [line.split("|")[1].strip() for line in PAGE.splitlines() if line.startswith("|")]
    return [cell for cell in cells if cell.strip("-") and cell not in ("then", "pilbox")]


def test_each_row_has_a_test_that_proves_it() -> None:
    without = [row for row in rows() if not any(row.startswith(begin) for begin in PROOFS)]
    superfluous = [begin for begin in PROOFS if not any(row.startswith(begin) for row in rows())]

    assert (without, superfluous) == ([], [])
    for proof in PROOFS.values():
        path, _, name = proof.partition("::")
        assert re.search(rf"^def {name}\(", (REPOSITORY / "tests" / path).read_text(), re.M), proof


def test_without_a_scheme_the_thumbnail_server_reads_from_buckets_that_exist(tmp_path: Path) -> None:
    data = picture((60, 40))
    md5 = hashlib.md5(data).hexdigest()
    with DigestS3() as s3:
        s3.buckets |= {f"{shard}.old" for shard in SHARD_ALPHABET}
        s3.put(f"{md5s3stash.md5_to_bucket_shard(md5)}.old", md5, data, content_type="image/jpeg")
        with thumbnailer(tmp_path, s3.endpoint, BUCKET_BASE="old") as server:
            assert server.get(f"/clip/50x50/{md5}").image.size == (50, 33)
            assert "event=bucket_scheme scheme=multibucket" in server.log


NO_SUCH_BUCKET = StoreRefused("none", 404, "NoSuchBucket")
DENIED = StoreRefused("denied", 403, "AccessDenied")
EXPIRED = StoreRefused("expired", 400, "ExpiredToken")
OUTAGE = StoreUnavailable("none")


@pytest.mark.parametrize(
    ("one", "first_of_36", "scheme", "is_guess"),
    [
        (None, None, BucketScheme.SIMPLE, False),
        (None, NO_SUCH_BUCKET, BucketScheme.SIMPLE, False),
        (None, OUTAGE, BucketScheme.SIMPLE, False),
        (DENIED, None, BucketScheme.SIMPLE, False),
        (OUTAGE, None, BucketScheme.SIMPLE, True),
        (OUTAGE, OUTAGE, BucketScheme.SIMPLE, True),
        (EXPIRED, EXPIRED, BucketScheme.SIMPLE, True),
        (NO_SUCH_BUCKET, NO_SUCH_BUCKET, BucketScheme.SIMPLE, False),
        (NO_SUCH_BUCKET, OUTAGE, BucketScheme.SIMPLE, True),
        (NO_SUCH_BUCKET, EXPIRED, BucketScheme.SIMPLE, True),
        (NO_SUCH_BUCKET, None, BucketScheme.MULTIBUCKET, False),
        # A role that may read objects, and not list buckets.
        (NO_SUCH_BUCKET, DENIED, BucketScheme.MULTIBUCKET, False),
    ],
)
def test_one_bucket_counts_if_it_may_be_there_and_one_line_says_what_to_set(
    one: StashError | None,
    first_of_36: StashError | None,
    scheme: BucketScheme,
    is_guess: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    answers = {"base": one, "0.base": first_of_36}

    def check(bucket: str) -> None:
        error = answers[bucket]
        if error:
            raise error

    pauses: list[float] = []
    assert Stash.from_environment({"BUCKET_BASE": "base"}).settled(check, pauses.append).base.scheme is scheme
    (line,) = caplog.messages
    assert f"scheme={scheme} " in line
    assert "BUCKET_SCHEME is not set" in line
    assert ("is a guess" in line, len(pauses)) == (is_guess, 2 if is_guess else 0)


@pytest.mark.parametrize("late", [OUTAGE, EXPIRED])
def test_a_moment_in_which_s3_does_not_answer_decides_nothing(late: StashError) -> None:
    answers = iter([late, NO_SUCH_BUCKET, late, NO_SUCH_BUCKET, None])

    def check(bucket: str) -> None:
        error = next(answers)
        if error:
            raise error

    settled = Stash.from_environment({"BUCKET_BASE": "base"}).settled(check, lambda _: None)
    assert settled.base.scheme is BucketScheme.MULTIBUCKET


@pytest.mark.parametrize(
    "more", [{"BUCKET_SCHEME": "simple"}, {"BUCKET_SCHEME": "multibucket"}, {"BUCKET_BASE": "a/b"}]
)
def test_s3_is_not_asked_where_the_settings_leave_nothing_open(more: dict[str, str]) -> None:
    assert not Stash.from_environment({"BUCKET_BASE": "base", **more}).is_scheme_open
    assert Stash.from_environment({"BUCKET_BASE": "base"}).is_scheme_open


def test_the_thumbnail_server_reads_from_one_base() -> None:
    with pytest.raises(SettingsError, match="BUCKET_BASE is 'a,b': the thumbnail server reads from one base"):
        Stash.from_environment({"BUCKET_BASE": "a,b"})


@pytest.fixture
def server() -> Iterator[DigestS3]:
    with DigestS3() as server:
        server.buckets.add("bucket")
        yield server


def test_without_caches_no_call_knows_of_another(server: DigestS3) -> None:
    conn = plain_client(server.endpoint, Keys())
    with Origin() as origin:
        url = origin.answer("/a.txt", Reply(body=b"a", headers={"ETag": '"a"'}))
        for _ in range(2):
            md5s3stash.md5s3stash(url, "bucket", conn)
        # Nothing is left from the first call that the second could ask the origin about.
        assert [request.headers.get("If-None-Match") for request in origin.requests] == [None, None]


def test_no_test_reads_live_redis_test() -> None:
    folders = [REPOSITORY / folder for folder in ("md5s3stash", "daemon", "thumbnailer", "migrate", "tests")]
    readers = [path for folder in folders for path in folder.rglob("*.py") if "LIVE_REDIS" in path.read_text()]

    assert readers == [Path(__file__)]
