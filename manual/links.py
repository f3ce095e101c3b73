"""Checks the links of a built site: each linked page, file and anchor within it must exist.

Links to other sites are checked for their form only (https, a host, no spaces): a build must not depend on other
servers. Imports only the standard library, because it runs where the site is built.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

_ADDRESSES = ("href", "src", "srcset")


class _Page(HTMLParser):
    """The anchors and links of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if value and name in ("id", "name"):
                self.anchors.add(value)
            # A reader cannot follow `rel=canonical` and the like in the head.
            elif value and name in _ADDRESSES:
                self.links.add(value)


def faults(site: Path) -> Iterator[str]:
    """A line for each broken link."""
    pages = {path: _Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}
    for path, page in pages.items():
        for link in sorted(page.links):
            fault = _fault_within(link, path, pages) if _is_within(link) else _fault_of_form(link)
            if fault:
                yield f"{path.relative_to(site)}: {link}: {fault}"


def _is_within(link: str) -> bool:
    parts = urlsplit(link)
    return not parts.scheme and not parts.netloc


def _fault_within(link: str, page: Path, pages: dict[Path, _Page]) -> str:
    parts = urlsplit(link)
    target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
    if target.is_dir():
        target /= "index.html"
    if not target.is_file():
        return "no such page or file"
    if parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
        return "no such heading"
    return ""


def _fault_of_form(link: str) -> str:
    parts = urlsplit(link)
    if parts.scheme in ("mailto", "data"):
        return ""
    if parts.scheme != "https":
        return "not https"
    return "" if parts.hostname and "." in parts.hostname and " " not in link else "not a URL"


def main() -> int:
    site = Path(sys.argv[1]).resolve()
    found = list(faults(site))
    for fault in found:
        print(fault, file=sys.stderr)
    pages = len(list(site.rglob("*.html")))
    print(f"{pages} pages in {site}, {len(found) or 'no'} broken links; links to other sites: form checked only")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
