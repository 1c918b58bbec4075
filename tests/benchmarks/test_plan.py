"""The benchmark of plans compares parts of the same graph."""

import json

from click.testing import CliRunner

from tilewright.benchmarks.plan import command
from tilewright.linalg.lu_graph import lu_graph
from tilewright.linalg.qr_graph import qr_graph


def test_the_command_prints_one_json_object_a_record():
    arguments = ["--n", "240", "--nb", "10", "--grid", "2", "3", "--flat", "24", "--tasks", "0", "--json"]
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 0, result.output
    plans = list(map(json.loads, result.output.splitlines()))
    asked, ready, lu, lu_ready, qr, qr_ready, loops, flat = plans
    assert [plan["contender"].partition(", ")[2] for plan in plans] == [
        *["from the loops", "until its first task"] * 3,
        "from the loops",
        "flat",
    ]
    assert [plan["routine"] for plan in plans[:6:2]] == [plan["routine"] for plan in plans[1:6:2]]
    for plan, until in ((asked, ready), (lu, lu_ready), (qr, qr_ready)):
        assert (plan["tasks"], plan["part"]) == (until["tasks"], until["part"])
    assert asked["tasks"] == loops["tasks"] == flat["tasks"] == 24 * 25 * 26 // 6
    assert lu["routine"] == "lu" and lu["tasks"] == len(lu_graph(24, 24, ranks=2)) and lu["part"] > asked["part"]
    tree = ("hierarchical", 4, "binary", "binary")
    assert qr["routine"] == "qr" and qr["tasks"] == len(qr_graph(24, 24, tree, ranks=2)) and qr["part"] > 0
    assert asked["part"] == loops["part"] == flat["part"] > 0
