"""The documentation: each page is in the navigation, each picture exists, the link check finds broken links."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from manual.links import faults
from manual.pictures import examples
from tests.support.servers import REPOSITORY

DOCS = REPOSITORY / "docs"
_TOCTREE = re.compile(r"^```\{toctree\}\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def in_navigation(page: Path) -> set[Path]:
    """The pages in this page's tables of contents, recursively."""
    found: set[Path] = set()
    for entries in _TOCTREE.findall(page.read_text(encoding="utf-8")):
        for entry in entries.splitlines():
            if entry and not entry.startswith(":"):
                # `name`, or `title <name>`.
                named = sorted(page.parent.glob(f"{entry.rstrip('>').rpartition('<')[2]}.md"))
                assert named, f"{page.name} names {entry!r}, which does not exist"
                found.update(named)
    return found.union(*map(in_navigation, found))


def test_every_page_is_in_the_navigation() -> None:
    assert in_navigation(DOCS / "index.md") | {DOCS / "index.md"} == set(DOCS.rglob("*.md"))


def test_every_picture_is_shown_and_every_one_that_is_shown_is_there() -> None:
    there = {path.name for path in (DOCS / "pictures").iterdir()}
    shown = {
        name
        for page in DOCS.rglob("*.md")
        for name in re.findall(r"\]\(pictures/([\w.-]+)\)", page.read_text(encoding="utf-8"))
    }

    assert shown == there
    assert there > {name for name, _, _ in examples()} > {"clip.jpg"}


def anchors(page: Path) -> set[str]:
    """Of its headings, as GitHub and the site make them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    texts = (re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).strip().lower() for heading in headings)
    return {re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", text)) for text in texts}


def test_every_heading_that_a_page_links_to_is_there() -> None:
    pages = {*DOCS.rglob("*.md"), *REPOSITORY.glob("*.md")}
    links = [
        (page, (page.parent / to).resolve() if to else page, heading)
        for page in pages
        for to, heading in re.findall(r"\]\(([\w./-]*)#([\w-]+)\)", page.read_text(encoding="utf-8"))
    ]

    assert len(links) > 30
    gone = [(page.name, to.name, heading) for page, to, heading in links if to in pages and heading not in anchors(to)]
    assert gone == []


def test_no_proxy_is_told_to_pass_on_the_host_that_a_client_names() -> None:
    """Its cache would give the address in one client's request to all others."""
    given = {
        value
        for page in DOCS.rglob("*.md")
        for value in re.findall(r"^ *proxy_set_header X-Forwarded-Host (.*);$", page.read_text(encoding="utf-8"), re.M)
    }
    assert given == {"$server_name"}


def test_every_test_that_the_architecture_names_is_there() -> None:
    page = (DOCS / "architecture.md").read_text(encoding="utf-8")
    named = {f"{name}.py" for name in re.findall(r"`([\w/]*\btest_\w+)`", page)}
    places = (REPOSITORY, REPOSITORY / "tests/daemon", REPOSITORY / "tests/thumbnailer")

    assert len(named) > 40
    assert {name for name in named if not any((place / name).exists() for place in places)} == set()


@pytest.mark.parametrize(
    ("link", "fault"),
    [
        ("other.html", ""),
        ("other.html#here", ""),
        ("#top", ""),
        ("folder/", ""),
        ("https://example.org/page", ""),
        ("mailto:someone@example.org", ""),
        ("gone.html", "no such page or file"),
        ("other.html#gone", "no such heading"),
        ("#gone", "no such heading"),
        ("http://example.org/", "not https"),
        ("https:///page", "not a URL"),
    ],
)
def test_link_check_tells_what_leads_nowhere(link: str, fault: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "index.html").write_text("<p>")
    (tmp_path / "other.html").write_text('<h2 id="here">Here</h2>')
    (tmp_path / "page.html").write_text(f'<h1 id="top">Top</h1><a href="{link}">there</a>')

    assert list(faults(tmp_path)) == ([f"page.html: {link}: {fault}"] if fault else [])
