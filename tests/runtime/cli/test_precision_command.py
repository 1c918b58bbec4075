import json

from click.testing import CliRunner

from tilewright.cli import main


def test_tables_fit_a_terminal_of_80_columns():
    result = CliRunner().invoke(main, ["precision"], env={"COLUMNS": "80"})
    assert result.exit_code == 0, result.output
    for text in ("2^-53", "1.1e-16", "65504", "6.0e-08", "inf", "1e-15", "cblas", "autocast", "unscale after"):
        assert text in result.output
    assert "…" not in result.output


def test_json_is_one_object():
    result = CliRunner().invoke(main, ["precision", "--json"])
    found = json.loads(result.output)
    assert found["formats"][4] | {"bits": 16, "u": 2.0**-8} == found["formats"][4]
    assert {d["topic"] for d in found["demonstrations"]} == {"overflow", "underflow", "scaling"}
    assert {r["form"] for r in found["routes"]} == {"bfloat16", "float16", "bfloat16x2"}


def test_map_is_drawn(tmp_path):
    result = CliRunner().invoke(main, ["precision", "--json", "--map", str(tmp_path / "map.png")])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")


def test_bad_suffix_is_refused_before_any_work(tmp_path):
    result = CliRunner().invoke(main, ["precision", "--map", str(tmp_path / "map.txt")])
    assert result.exit_code == 2
    assert "must end in .png or .svg or .pdf" in result.output
