"""Odd answers of origins, compared with curl and wget: content that both accept is accepted, with the same bytes.

`MEANT` is the table of intended differences, with reasons.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from md5s3stash.errors import SourceError
from md5s3stash.fetch import Fetched, Fetcher, FetchLimits
from md5s3stash.retry import RetryPolicy
from tests.support.odd_answers import OddAnswer, OddOrigin, odd_answers

SECONDS = 60


@dataclass(frozen=True)
class Difference:
    """Answers of a kind whose names match the pattern, which we treat differently from curl and wget, and why."""

    kind: str
    pattern: str
    why: str

    def names(self, answer: OddAnswer) -> bool:
        return answer.kind == self.kind and re.fullmatch(self.pattern, answer.name) is not None


MEANT = (
    Difference("encodings", r"packed as (?i:.*gzip)(?!, br).*", "gzip is undone: the file was published without it"),
    Difference(
        "encodings", r"packed as (br|zstd|deflate|x?-?compress|bzip2|xz|lzma|dcb|gzip, br)", "not the published content"
    ),
    Difference(
        "encodings", r"not packed as .*", "what is not compressed as it says is damaged, or another compression"
    ),
    Difference("locations", r".*(//u:p@|//u@).*", "a URL that contains a password is refused (docs/security.md)"),
    Difference("locations", r".*/a\[b\].*", "brackets in a path are escaped, as RFC 3986 asks"),
    Difference(
        "locations", r".*'http:/?b'", "relative to the same scheme, as browsers take it (RFC 3986, section 5.2.2)"
    ),
    Difference("locations", r"20[12]", "no status but 200 is content"),
    Difference(
        "lines",
        r".* in (Location|Transfer-Encoding)",
        "blanks before a colon do not belong to the name (RFC 9112, 5.1)",
    ),
    Difference("two_locations", r"b'', .*", "a Location that says nothing is not one"),
    Difference(
        "transfer_encodings", r"(?i:.*(chunked.*,|,.*chunked).*)", "chunked beside itself or identity is chunked, once"
    ),
    Difference("transfer_encodings", r"chunks: no last line", "the last chunk has come, and with it the whole content"),
    Difference("transfer_encodings", r"chunks: line feeds", "inexact framing cannot be distinguished from damage"),
    Difference(
        "transfer_encodings", r"chunks: underscore", "Python's numbers; the next chunk proves that the size was right"
    ),
    Difference("lengths", r"b'(0x28|\"40\"|x|4_0|)'", "a length that is not a number is ignored, as browsers do"),
    Difference("lengths", r"b'9{25}'", "more than max_bytes"),
    Difference(
        "lengths",
        r"b'(\d+)'?, (b')?(?!\1')\d+'",
        "lengths that contradict each other are refused (RFC 9112, section 6.3)",
    ),
    Difference("lengths", r".*b''.*", "an empty length is ignored"),
    Difference("lengths", r"head cut in a line", "a head that was cut off is not complete"),
    Difference(
        "statuses", r"20[1-6]|207|226|299|300", "no status but 200 is content: 203 was changed, 206 is not all of it"
    ),
)


@dataclass(frozen=True)
class Seen:
    """Each client's result for an answer: the bytes, or None for an error."""

    answer: OddAnswer
    ours: bytes | None
    curl: bytes | None
    wget: bytes | None

    @property
    def meant(self) -> bool:
        return any(row.names(self.answer) for row in MEANT)


def look(directory: Path) -> list[Seen]:
    answers = odd_answers()
    with OddOrigin(answers) as origin:
        urls = [origin.url(number) for number in range(len(answers))]
        curl = by_curl(urls, directory / "curl")
        wget = by_wget(urls, directory / "wget")
        limits = FetchLimits(read_timeout_seconds=SECONDS)
        with Fetcher(limits, retry=RetryPolicy(attempts=1)) as fetcher:
            ours = [by_us(fetcher, url) for url in urls]
    return [Seen(*each) for each in zip(answers, ours, curl, wget, strict=True)]


def by_us(fetcher: Fetcher, url: str) -> bytes | None:
    try:
        fetched = fetcher.fetch(url)
    except SourceError:
        return None
    assert isinstance(fetched, Fetched)
    with fetched.content as content:
        return content.reader().read()


def by_curl(urls: list[str], directory: Path) -> list[bytes | None]:
    directory.mkdir()
    found: list[bytes | None] = []
    while len(found) < len(urls):
        # After some answers it skips the remaining URLs: these are requested in another run.
        first = len(found)
        config = "".join(f'url = "{url}"\noutput = "{directory}/{n}"\n' for n, url in enumerate(urls) if n >= first)
        command = ["curl", "-q", "-sfL", "-m", str(SECONDS), "--max-redirs", "5", "-w", r"%{exitcode}\n", "-K", "-"]
        run = subprocess.run(command, input=config, capture_output=True, text=True, check=False)
        codes = run.stdout.split()
        assert codes, run
        found += [
            bytes_of(directory / str(number)) if code == "0" else None for number, code in enumerate(codes, first)
        ]
    return found


def by_wget(urls: list[str], directory: Path) -> list[bytes | None]:
    command = ["wget", "--no-config", "-nv", "-t", "1", "-T", str(SECONDS), "--max-redirect=5", "-P", str(directory)]
    run = subprocess.run(
        [*command, "--no-http-keep-alive", "-i", "-"],
        input="\n".join(urls).encode(),
        capture_output=True,
        env={**os.environ, "LC_ALL": "C"},
        check=False,
    )
    taken = {int(number) for number in re.findall(rb'-> "[^"]*/([0-9]+)" \[1\]', run.stderr)}
    return [bytes_of(directory / str(number)) if number in taken else None for number in range(len(urls))]


def bytes_of(path: Path) -> bytes:
    # curl and wget create no file for an empty body.
    return path.read_bytes() if path.exists() else b""


def table(wrong: Iterator[Seen]) -> str:
    return "\n".join(
        f"{each.answer.kind} {each.answer.name}: {each.ours!r}, curl {each.curl!r}, wget {each.wget!r}"
        for each in wrong
    )


def test_there_are_hundreds_of_answers_each_under_its_own_name() -> None:
    answers = odd_answers()

    assert len({(answer.kind, answer.name) for answer in answers}) == len(answers) > 500


def test_every_answer_is_taken_as_curl_and_wget_take_it_but_for_what_is_meant(tmp_path: Path) -> None:
    seen = look(tmp_path)
    both = [each for each in seen if each.curl is not None and each.curl == each.wget]
    assert len(both) > 300

    refused = table(each for each in both if each.ours != each.curl and not each.meant)
    assert refused == "", "content that curl and wget both accept is accepted"

    taken = (each for each in seen if each.ours is not None and not each.meant)
    other = table(each for each in taken if each.ours not in (each.curl, each.wget))
    assert other == "", "no other content than that of curl or wget"

    different = [each.answer for each in seen if each.ours != each.curl or each.ours != each.wget]
    rows = [row for row in MEANT if not any(row.names(answer) for answer in different)]
    assert rows == [], "remove rows of MEANT that match nothing"
