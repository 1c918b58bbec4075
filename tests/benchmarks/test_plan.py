"""The benchmark of plans compares parts of the same graph."""

import json

from click.testing import CliRunner

from tilewright.benchmarks.plan import command


def test_the_command_prints_one_json_object_a_record():
    arguments = ["--n", "240", "--nb", "10", "--grid", "2", "3", "--flat", "24", "--tasks", "0", "--json"]
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 0, result.output
    asked, loops, flat = map(json.loads, result.output.splitlines())
    assert (asked["contender"], loops["contender"], flat["contender"]) == ("from the loops", "from the loops", "flat")
    assert asked["tasks"] == loops["tasks"] == flat["tasks"] == 24 * 25 * 26 // 6
    assert asked["part"] == loops["part"] == flat["part"] > 0
