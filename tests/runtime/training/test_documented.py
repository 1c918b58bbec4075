"""docs/training.md says which test claims what."""

import re
from pathlib import Path

TESTS = Path(__file__).parents[2]
DOCUMENT = TESTS.parent / "docs" / "training.md"


def test_every_test_that_the_tables_name_exists():
    claims = {name for file in TESTS.rglob("*.py") for name in re.findall(r"^ *def (test_\w+)", file.read_text(), re.M)}
    claims |= {file.stem for file in TESTS.rglob("test_*.py")}
    rows = [line for line in DOCUMENT.read_text().splitlines() if line.startswith("|")]
    named = {name for row in rows for name in re.findall(r"`(test_\w+)", row)}
    assert len(named) > 60 and named - claims == set()


def test_the_tables_have_every_erratum_and_every_failure():
    text = DOCUMENT.read_text()
    errata = re.findall(r"^\| (\d+) \|", text.split("## What the notebook gets wrong")[1].split("\n## ")[0], re.M)
    failures = re.findall(r"^\| ([\d, ]+) \|", text.split("## Known failures")[1], re.M)
    assert errata == [str(k) for k in range(1, 11)]
    assert [n for row in failures for n in row.split(", ")] == [str(k) for k in range(1, 24)]
