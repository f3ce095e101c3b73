"""The calculations of docs/deploy.md and docs/scale.md are correct. Unit prices are AWS's; each row of the former links
to the source."""

from __future__ import annotations

import re
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

import pytest

from aws import costs
from aws.image import spool_metrics
from tests.support.cloudformation import Stack, read_template

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = (DOCS / "deploy.md").read_text()
TABLE = PAGE.partition("| what | amount x unit price |")[2].partition("\n\n")[0].splitlines()[2:]
ROW = re.compile(
    r"^\| ([^|]+) \| ([\d.]+) x ([\d.]+) \| ([\d.]+) \| \[\w[\w ]*\]\(https://aws\.amazon\.com/\S+/pricing/\S*\) \|$"
)


def test_each_amount_is_its_product_and_the_last_line_their_sum() -> None:
    *rows, together = TABLE
    amounts = []
    for row in rows:
        found = ROW.match(row)
        assert found, row
        amount = (Decimal(found[2]) * Decimal(found[3])).quantize(Decimal("0.01"), ROUND_HALF_UP)
        assert amount == Decimal(found[4]), row
        amounts.append(amount)

    assert together == f"| **together** | | **{sum(amounts)}** | |"


def test_the_page_on_scale_shows_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    costs.main([])

    assert f"\n\n{capsys.readouterr().out}\n" in (DOCS / "scale.md").read_text(), "run python -m aws.costs"


@pytest.mark.parametrize("wrong", ["--objects=0", "--objects=many", "--megabytes=nan", "--views=-1", "--misses=2"])
def test_a_number_that_means_nothing_is_one_line(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        costs.main([wrong])

    assert f"error: argument {wrong.partition('=')[0]}: " in capsys.readouterr().err.splitlines()[-1]


def test_both_pages_have_the_same_price_for_the_same_thing() -> None:
    rows = [ROW.match(row) for row in TABLE]
    here = {row[1]: float(row[3]) for row in rows if row}
    # For a falling price, the first one above 0.
    first = {item.what: float(item.price_in_words.partition(" ")[0]) for item in costs.MONTHLY if item.price}

    common = here.keys() & first.keys()
    assert {what: here[what] for what in common} == {what: first[what] for what in common}
    assert len(common) >= 5


@pytest.mark.parametrize(
    ("gigabytes", "dollars"), [(1000, 23.0), (51_200, 1177.60), (51_201, 1177.622), (600_000, 13163.2)]
)
def test_storage_falls_in_price_where_aws_says_so(gigabytes: float, dollars: float) -> None:
    assert costs.tiered(gigabytes, costs.STANDARD_GB) == pytest.approx(dollars)


def test_a_ledger_gets_the_smallest_node_whose_part_for_data_holds_it_and_a_second_one_where_none_does() -> None:
    for objects in (1, 10**6, 10**7, 10**8, 5 * 10**8, 10**9, 10**10):
        stash = costs.Stash(objects)
        need = objects * costs.LEDGER_BYTES_PER_OBJECT / 2**30 / stash.ledgers
        holding = {name: price for name, (gib, price) in costs.NODES.items() if gib * costs.NODE_SHARE >= need}
        assert costs.NODES[stash.ledger_node][1] == min(holding.values())

    most = int(419.09 * costs.NODE_SHARE * 2**30 / costs.LEDGER_BYTES_PER_OBJECT)
    assert (costs.Stash(most).ledgers, costs.Stash(most + 1).ledgers) == (1, 2)
    (told,) = re.findall(r"No node holds more\s+than some (\d+) million URLs", (DOCS / "scale.md").read_text())
    assert int(told) == most // 10**7 * 10


def test_thumbnail_boxes_are_enough_for_the_busiest_hour() -> None:
    stash = costs.Stash(10**8)
    busiest = stash.made / (730 * 3600) * costs.PEAK

    assert (stash.thumbnail_boxes - 1) * costs.THUMBNAILS_PER_BOX < busiest
    assert stash.thumbnail_boxes * costs.THUMBNAILS_PER_BOX >= busiest
    assert costs.Stash(1).thumbnail_boxes == 1


def test_what_is_paid_for_alarms_and_figures_is_what_the_templates_have() -> None:
    base, viewers, fleet = (figures_watched(name) for name in ("template.yaml", "cloudfront-alarm.yaml", "fleet.yaml"))
    prices = {item.what: item.amount(costs.Stash(1)) for item in costs.MONTHLY}

    assert prices["metrics used by alarms, beyond ten"] == base + viewers + fleet - 10
    assert f"| metrics used by alarms, beyond ten | {base + viewers - 10} x" in PAGE
    assert prices["CloudWatch metrics of the spool"] == len([*spool_metrics.FIGURES, spool_metrics.LEAST_FREE])


def figures_watched(template: str) -> int:
    """The number of alarm metrics that CloudWatch bills; target tracking makes two alarms."""
    count = 0
    for resource in Stack(read_template(template), {}, {}).resources.values():
        properties = resource.get("Properties", {})
        if resource["Type"] == "AWS::CloudWatch::Alarm":
            count += sum("MetricStat" in query for query in properties.get("Metrics", [])) or 1
        elif tracking := properties.get("TargetTrackingConfiguration"):
            queries = tracking.get("CustomizedMetricSpecification", {}).get("Metrics", [])
            count += 2 * (sum("MetricStat" in query for query in queries) or 1)
    return count
