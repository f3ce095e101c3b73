"""docs/deploy.md reckons rightly. What a unit costs is AWS's to say; each row names the page."""

from __future__ import annotations

import re
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

PAGE = (Path(__file__).resolve().parents[2] / "docs/deploy.md").read_text()
ROW = re.compile(
    r"^\| [^|]+ \| ([\d.]+) x ([\d.]+) \| ([\d.]+) \| \[\w[\w ]*\]\(https://aws\.amazon\.com/\S+/pricing/\S*\) \|$"
)


def test_each_amount_is_its_product_and_the_last_line_their_sum() -> None:
    table = PAGE.partition("| what | amount x unit price |")[2].partition("\n\n")[0].splitlines()[2:]
    *rows, together = table
    amounts = []
    for row in rows:
        found = ROW.match(row)
        assert found, row
        amount = (Decimal(found[1]) * Decimal(found[2])).quantize(Decimal("0.01"), ROUND_HALF_UP)
        assert amount == Decimal(found[3]), row
        amounts.append(amount)

    assert together == f"| **together** | | **{sum(amounts)}** | |"
