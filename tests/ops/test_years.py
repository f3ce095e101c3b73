"""docs/years.md: each row of its table has a link to what to do, tests that exist or the reason why there are none, and
when it was last seen.
"""

from __future__ import annotations

import functools
import re

import pytest

from tests.ops.test_docs import anchors
from tests.support.servers import REPOSITORY

DOCS = REPOSITORY / "docs"
PAGE = (DOCS / "years.md").read_text(encoding="utf-8")
ROWS = [
    row.strip("| ").split(" | ")
    for row in PAGE.partition("## What happens\n")[2].partition("\n## ")[0].splitlines()
    if row.startswith("| ") and not row.startswith("| what happens")
]


@functools.cache
def named_in(file: str) -> frozenset[str]:
    path = REPOSITORY / file
    return frozenset(re.findall(r"^def (test_\w+)\(", path.read_text(encoding="utf-8"), re.MULTILINE))


def test_the_table_has_what_happens_in_years() -> None:
    happens = "\n".join(row[0] for row in ROWS)

    assert all(len(row) == 4 for row in ROWS)
    for word in (
        *(
            "reboots",
            "power",
            "Redis",
            "Python",
            "key",
            "role",
            "zone",
            "volume is full",
            "image",
            "setting",
            "restored",
        ),
        *(
            "security update",
            "advisory",
            "new release of Debian|Debian has a new release",
            "password",
            "ledger is lost",
        ),
    ):
        assert re.search(word, happens), word


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_a_row_leads_to_what_to_do_and_names_tests_that_exist(row: list[str]) -> None:
    _, what_to_do, tested, seen = row
    links = re.findall(r"\]\(([\w.-]*)(?:#([\w-]+))?\)", what_to_do)
    tests = re.findall(r"`([\w/]+\.py)::(\w+)`", tested)

    assert links or what_to_do == "nothing"
    for page, heading in links:
        assert not heading or heading in anchors(DOCS / (page or "years.md")), (page, heading)
    assert tests or re.search(r"not testable here: \w+", tested, re.IGNORECASE)
    assert [name for file, name in tests if name not in named_in(file)] == []
    assert len(tests) == tested.count("::")
    is_complete = not re.search("not testable here", tested, re.IGNORECASE)
    assert seen == ("each change" if is_complete else "each change; the last step never" if tests else "never")
