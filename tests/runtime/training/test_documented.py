"""docs/training.md leaves nothing out. That the tests it names exist, tests/test_documents.py sees."""

import re
from pathlib import Path

DOCUMENT = Path(__file__).parents[3] / "docs" / "training.md"


def test_the_tables_have_every_erratum_and_every_failure():
    text = DOCUMENT.read_text()
    errata = re.findall(r"^\| (\d+) \|", text.split("## What the notebook gets wrong")[1].split("\n## ")[0], re.M)
    failures = re.findall(r"^\| ([\d, ]+) \|", text.split("## Known failures")[1], re.M)
    assert errata == [str(k) for k in range(1, 11)]
    assert [n for row in failures for n in row.split(", ")] == [str(k) for k in range(1, 24)]
