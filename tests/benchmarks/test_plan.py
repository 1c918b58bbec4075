"""The benchmark of plans compares parts of the same graph."""

import json

from click.testing import CliRunner

from tilewright.benchmarks.plan import command
from tilewright.linalg.lu_graph import lu_graph


def test_the_command_prints_one_json_object_a_record():
    arguments = ["--n", "240", "--nb", "10", "--grid", "2", "3", "--flat", "24", "--tasks", "0", "--json"]
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 0, result.output
    asked, lu, loops, flat = map(json.loads, result.output.splitlines())
    assert [plan["contender"].partition(", ")[2] for plan in (asked, lu, loops, flat)] == [
        *["from the loops"] * 3,
        "flat",
    ]
    assert asked["tasks"] == loops["tasks"] == flat["tasks"] == 24 * 25 * 26 // 6
    assert lu["routine"] == "lu" and lu["tasks"] == len(lu_graph(24, 24, ranks=2)) and lu["part"] > asked["part"]
    assert asked["part"] == loops["part"] == flat["part"] > 0
