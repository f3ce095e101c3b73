"""Runs the ledger's benchmarks at a tiny size, so that they keep working. No test asserts a figure."""

from __future__ import annotations

from bench import ledger_memory, ledger_rate


def test_the_memory_of_each_key_is_told_and_confirmations_are_no_lasting_part_of_it() -> None:
    results = ledger_memory.measure(600)

    files, urls = results["files"], results["URLs"]
    assert {key.name: key.entries for key in files.keys} == dict.fromkeys(
        ("names", "hash_cache", "log", "confirmed"), 600
    )
    assert {key.name for key in urls.keys} == {"names", "hash_cache", "log", "url_cache"}
    assert files.lasting_bytes < files.total_bytes
    assert "| `url_cache` |  | " in ledger_memory.table(results)


def test_several_writers_record_at_once() -> None:
    table = ledger_rate.report(ledger_rate.Plan((2,), (16,), 0.3)).text
    [row] = [line.split(" | ") for line in table.splitlines() if line.startswith("| 2 |")]
    assert int(row[2].replace(",", "")) > 0
