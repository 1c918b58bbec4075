import json

import pytest
from click.testing import CliRunner

import tilewright as tw
from tilewright.cli.graphs import split
from tilewright.cli.schedulers import compare, report, simulate
from tilewright.runs.saved import load
from tilewright.studies.engines import ENGINES


def invoke(command, *arguments, code=0):
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == code, result.output
    return result.output


def test_compare_prints_the_table_and_writes_what_was_asked(tmp_path):
    files = {kind: tmp_path / f"compare.{kind}" for kind in ("png", "html", "csv")}
    output = invoke(
        compare,
        "cholesky",
        "--nt",
        "8",
        "--workers",
        "2,16",
        "--schedulers",
        "eager, lookahead(2)",
        "--plot",
        str(files["png"]),
        "--html",
        str(files["html"]),
        "--csv",
        str(files["csv"]),
    )
    graph = tw.cholesky_graph(8)
    assert str(tw.compare_schedulers(graph, [2, 16], schedulers=["eager", "lookahead(2)"])) in output
    assert all(path.stat().st_size > 100 for path in files.values())


def test_simulate_prints_what_the_library_predicts(tmp_path):
    saved = tmp_path / "run.json"
    output = invoke(
        simulate,
        "cholesky",
        "--nt",
        "6",
        "--ranks",
        "4",
        "--grid",
        "2x2",
        "--workers",
        "2",
        "--gamma",
        "1e-10",
        "--alpha",
        "1e-6",
        "--beta",
        "1e-9",
        "--json",
        str(saved),
        "--html",
        str(tmp_path / "run.html"),
        "--perfetto",
        str(tmp_path / "trace.json"),
    )
    machine = tw.Machine(ranks=4, workers=2, alpha=1e-6, beta=1e-9, gamma=1e-10)
    run = tw.simulate(tw.cholesky_graph(6), machine, owner=lambda h: h.index[0] % 2 * 2 + h.index[1] % 2)
    assert str(run) in output
    assert f"messages       {len(run.trace.messages)} on 4 ranks" in output
    assert load(saved).trace.records == run.trace.records
    assert (tmp_path / "run.html").read_text().startswith("<!DOCTYPE html>")
    assert (tmp_path / "trace.json").read_text().startswith('{"traceEvents"')


def test_report_puts_saved_runs_on_one_page(tmp_path):
    paths = []
    for scheduler in ("eager", "lifo"):
        paths.append(str(tmp_path / f"{scheduler}.json"))
        tw.simulate(tw.cholesky_graph(4), tw.Machine(workers=2), scheduler=scheduler).save(paths[-1])
    page = tmp_path / "page.html"
    assert invoke(report, *paths, "-o", str(page)) == f"wrote {page}\n"
    text = page.read_text()
    assert "eager on 2 workers, simulated" in text
    assert "lifo on 2 workers, simulated" in text


def test_gpus_are_fast_at_updates():
    slow = invoke(simulate, "cholesky", "--nt", "8", "--workers", "4")
    fast = invoke(simulate, "cholesky", "--nt", "8", "--workers", "4", "--gpus", "2", "--scheduler", "heft")
    assert "makespan       136 units of nb^3/3 flops\n" in slow
    assert "makespan       136 units" not in fast


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--scheduler", "fast"], "unknown scheduler 'fast'; known: eager"),
        (["--grid", "2by2"], "'2by2' is not like 2x3"),
        (["--grid", "2x2", "--ranks", "3"], "--grid 2x2 has 4 ranks, --ranks is 3"),
        (["--ranks", "4", "--grid", "2x2", "--scheduler", "heft"], "places tasks on ranks itself"),
        (["--ranks", "4", "--owner", "symmetric"], "is for 1, 3, 6, 10, ... ranks, not 4"),
        (["--json", "run.txt"], "'run.txt' must end in .json"),
    ],
)
def test_a_wrong_option_is_a_message_not_a_traceback(arguments, message):
    assert message in " ".join(invoke(simulate, "cholesky", "--nt", "3", *arguments, code=2).split())


def test_report_says_what_is_no_run(tmp_path):
    path = tmp_path / "x.json"
    path.write_text("{}")
    assert "is no saved run" in invoke(report, str(path), code=2)


def test_names_are_split_at_commas_outside_parentheses():
    assert split("eager, lookahead(2),random(7, ) ,") == ["eager", "lookahead(2)", "random(7, )"]


def test_compare_measures_on_this_computer():
    output = invoke(
        compare,
        "cholesky",
        "--backend",
        "threads",
        "--nt",
        "3",
        "--tile-size",
        "16",
        "--workers",
        "1,2",
        "--schedulers",
        "eager,dmdas",
        "--repeat",
        "2",
    )
    assert output.startswith("cholesky nt=3: 10 tasks, backend threads, 12 KiB of data\n")
    rows = [line.split() for line in output.splitlines()[2:] if line]
    assert sorted((row[0], row[-1]) for row in rows if row[-1] in ("eager", "dmdas")) == [
        (count, name) for count in "12" for name in ("dmdas", "eager")
    ]
    assert output.count("2 policies tie; 5 rounds could tell.") == 2


@pytest.mark.parametrize(
    ("command", "arguments"),
    [(compare, ["cholesky", "--csv"]), (simulate, ["cholesky", "--html"]), (report, [__file__, "-o"])],
    ids=["compare", "simulate", "report"],
)
def test_output_into_no_folder_is_refused_before_any_work(command, arguments, tmp_path):
    path = tmp_path / "none" / ("rows.csv" if "--csv" in arguments else "page.html")
    assert f"there is no folder {str(path.parent)!r}" in invoke(command, *arguments, str(path), code=2)


def test_a_matrix_that_does_not_fit_is_one_sentence():
    output = invoke(compare, "cholesky", "--backend", "threads", "--nt", "2", "--tile-size", "8000000", code=2)
    assert "Unable to allocate" in output
    assert "Traceback" not in output


def test_engines_stand_side_by_side():
    options = ["--nt", "3", "--tile-size", "16", "--workers", "2", "--repeat", "2"]
    found = json.loads(invoke(compare, "cholesky", *options, "--engines", "threads, serial,futures", "--json"))
    assert {(row["engine"], row["workers"]) for row in found["rows"]} == {("threads", 2), ("serial", 1), ("futures", 2)}
    assert (found["unit"], found["absent"]) == ("s", {}) and all(row["call"] > 0 for row in found["rows"])
    assert found["verdicts"] == ["2 workers: all 2 engines tie; 5 rounds could tell."]


def test_engines_are_completed_behind_a_comma_too():
    (kind,) = [option.type for option in compare.params if option.name == "engines"]

    def completed(text):
        return {item.value: item.help for item in kind.shell_complete(None, None, text)}

    assert completed("").keys() == {"all", *ENGINES} and completed("")["all"] == "all that are here"
    assert completed("th") == {name: ENGINES[name].summary for name in ENGINES if name.startswith("th")} != {}
    assert completed("serial,fut") == {"serial,futures": ENGINES["futures"].summary}
    assert completed("serial,nothing") == {}


def test_trees_and_policies_stand_side_by_side():
    options = ["--nt", "3", "--mt", "9", "--workers", "4", "--schedulers", "critical-path,lookahead(1)"]
    trees = "tree=flat,greedy,hierarchical(3,flat,binary)"
    found = json.loads(invoke(compare, "qr", *options, "--vary", trees, "--json"))
    parsed = {"flat": "flat", "greedy": "greedy", "hierarchical(3,flat,binary)": ("hierarchical", 3, "flat", "binary")}
    for name, tree in parsed.items():
        graph = tw.qr_graph(9, 3, tree, tile_size=256, shape=(9 * 256, 3 * 256))
        for policy in ("critical-path", "lookahead(1)"):
            (row,) = [r for r in found["rows"] if r["variant"] == f"tree={name}" and r["scheduler"] == policy]
            assert row["makespan"] == tw.simulate(graph, tw.Machine(workers=4), scheduler=policy).makespan
    assert len(found["rows"]) == 6


def test_each_size_has_a_table_of_its_own_and_the_page_has_all(tmp_path):
    page, rows = tmp_path / "page.html", tmp_path / "rows.csv"
    options = ["--workers", "2,4", "--schedulers", "eager,critical-path"]
    said = invoke(compare, "cholesky", "--vary", "nt=4,6", *options, "--html", str(page), "--csv", str(rows))
    tables = [
        tw.compare_schedulers(tw.cholesky_graph(nt), [2, 4], schedulers=["eager", "critical-path"]) for nt in (4, 6)
    ]
    assert said.startswith("\n\n".join(map(str, tables)))
    found = json.loads(invoke(compare, "cholesky", "--vary", "nt=4,6", *options, "--json"))["tables"]
    assert [table["advice"] for table in found] == [table.advice() for table in tables]
    assert page.read_text().count('<div class="comparison"') == 2
    assert [line.rpartition(",")[2] for line in rows.read_text().splitlines()] == [
        "graph",
        *["cholesky nt=4"] * 4,
        *["cholesky nt=6"] * 4,
    ]


def test_sockets_come_from_options_or_from_the_file_of_a_machine(tmp_path):
    machine = tw.Machine(sockets=2, socket_beta=1e-3)
    machine.to_json(tmp_path / "machine.json")
    options = ["cholesky", "--nt", "6", "--workers", "4", "--schedulers", "eager,lws"]
    said = invoke(compare, *options, "--sockets", "2", "--socket-beta", "1e-3")
    assert said == invoke(compare, *options, "--machine", str(tmp_path / "machine.json"))
    assert said != invoke(compare, *options)
    graph = tw.cholesky_graph(6)
    assert str(tw.compare_schedulers(graph, 4, machine=machine, schedulers=["eager", "lws"])) in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["qr", "--vary", "tree"], "'tree' is not like tree=greedy,flat; it takes algorithm,"),
        (["qr", "--vary", "tre=flat"], "did you mean tree?"),
        (["qr", "--vary", "windw=1MB"], "did you mean window?"),
        (["qr", "--vary", "window=little"], "window must be a number of bytes or a text such as '2GB'"),
        (["qr", "--vary", "broadcast="], "'broadcast=' has no values"),
        (["qr", "--nt", "2", "--vary", "window=1MB"], "window"),
        (["cholesky", "--vary", "tree=flat"], "graph cholesky has no tree; it has precision, nt"),
        (["cholesky", "--vary", "nt=few"], "'few' is not a valid integer"),
        (["cholesky", "--vary", "nt=2,3", "--plot", "x.png"], "--plot draws one table; --html has all sizes"),
        (["cholesky", "--vary", "nt=2,3", "--engines", "threads"], "leave out --vary"),
        (["lu", "--vary", "panel=double"], "'double' is not one of 'single', 'recursive'"),
        (["cholesky", "--engines", "thread"], "unknown engine 'thread'; known: serial"),
        (["cholesky", "--engines", "threads", "--backend", "mpi"], "leave out --backend"),
        (["cholesky", "--engines", "threads", "--workers", "1,2"], "on one number of --workers"),
        (["lu", "--engines", "threads", "--vary", "panel=single,recursive"], "leave out --vary"),
        (["cholesky", "--engines", "threads", "--owner", "rows"], "leave out --owner and --grid"),
        (["cholesky", "--engines", "threads", "--grid", "1x2"], "leave out --owner and --grid"),
        (["cholesky", "--engines", "threads", "--pin", "cores"], "leave out --pin"),
        (["cholesky", "--pin", "cores"], "--pin is for engines that bind workers: threads and mpi"),
    ],
)
def test_what_cannot_be_compared_is_a_message(arguments, message):
    assert message in " ".join(invoke(compare, *arguments, "--nt", "2", code=2).split())
