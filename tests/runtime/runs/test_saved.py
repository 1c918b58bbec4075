import copy
import json
import random
from dataclasses import replace

import numpy as np
import pytest

import tilewright as tw
from tilewright.plot.html import run_page
from tilewright.runs.saved import load

MACHINE = tw.Machine(ranks=2, workers=2, alpha=1e-5, beta=1e-9, gamma=1e-9, durations={"potrf": {256: 0.01}})


def simulated():
    return tw.simulate(tw.cholesky_graph(5), MACHINE, owner=lambda h: h.index[0] % 2)


def training_like():
    return replace(measured(), measured=12345)


def measured():
    return tw.tiled_cholesky(np.eye(50) * 2, tile_size=13, return_run=True)[1]


@pytest.mark.parametrize("make", [simulated, measured, training_like])
def test_a_saved_run_comes_back_with_all_but_its_data(make, tmp_path):
    run = make()
    run.save(tmp_path / "run.json")
    back = load(tmp_path / "run.json")
    back.trace.check()
    assert back.trace.records == run.trace.records
    assert back.trace.messages == run.trace.messages
    assert [(task.label, task.predecessors) for task in back.graph] == [(t.label, t.predecessors) for t in run.graph]
    assert (back.bounds, back.idle_split, back.memory) == (run.bounds, run.idle_split, run.memory)
    assert (back.flops, back.machine) == (run.flops, run.machine)
    assert str(back) == str(run)
    assert run_page(back) == run_page(run)


def test_ops_of_the_user_keep_name_and_weight(tmp_path):
    g = tw.TaskGraph("mine")
    g.insert(tw.Op("stir", weight=3), tw.W(g.handle("pot")))
    tw.simulate(g).save(tmp_path / "run.json")
    back = load(tmp_path / "run.json")
    assert [(task.label, task.op.weight) for task in back.graph] == [("stir(pot)", 3)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "is no saved run"),
        ("[1]", "is no saved run"),
        ("hm", "is no saved run"),
        ('{"tilewright_run": 99}', "has format 99"),
    ],
)
def test_another_file_is_refused(text, message, tmp_path):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "run.json")


ODD = [None, True, -1, 0, 1.5, 1e300, float("nan"), 2**70, "x", "R", "", [], [[]], [0], {}, {"a": 1}, "\x00", "\ud800"]


def places(document, path=()):
    """Where a document could be changed."""
    yield path
    inner = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for key, value in inner:
        yield from places(value, (*path, key))


def mutated(document, rng):
    """The document with a value changed, taken out, doubled or cut short, or bytes of its text changed."""
    document = copy.deepcopy(document)
    for _ in range(rng.choice([1, 1, 2])):
        *path, last = rng.choice([place for place in places(document) if place])
        holder = document
        for key in path:
            holder = holder[key]
        what = rng.randrange(4)
        if what == 0:
            del holder[last]
        elif what == 1 and isinstance(holder, list):
            holder.insert(last, holder[last])
        elif what == 2 and isinstance(holder[last], int | float) and not isinstance(holder[last], bool):
            holder[last] = rng.choice([-holder[last], holder[last] + 1, holder[last] * 10**8, 0.5])
        else:
            holder[last] = rng.choice(ODD)
    text = json.dumps(document)
    if rng.randrange(5) == 0:
        place = rng.randrange(len(text))
        text = rng.choice([text[:place], text[:place] + rng.choice('[]{},:"0-e\x00') + text[place + 1 :]])
    return text


@pytest.mark.parametrize("make", [simulated, measured])
def test_a_mutated_file_is_refused_in_one_sentence_or_can_be_reported(make, tmp_path):
    run = make()
    path = tmp_path / "run.json"
    run.save(path)
    document = json.loads(path.read_text())
    rng = random.Random(make.__name__)
    refused = 0
    for _ in range(400):
        path.write_bytes(mutated(document, rng).encode("utf-8", "surrogatepass"))
        try:
            back = load(path)
        except ValueError as error:
            refused += 1
            assert str(error).startswith(str(path)) and "\n" not in str(error) and len(str(error)) < 1000
        else:
            assert str(back)
            back.report(tmp_path / "run.html")
            back.save(tmp_path / "again.json")
    assert refused > 300


def change(document, *path, value):
    holder = document
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = value


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("tasks", 0, 2), [1], r"task 0 waits for \[1\], which are no tasks before it"),
        (("tasks", 3, 2), [0, 0], r"task 3 waits for \[0, 0\], which are no tasks before it"),
        (("workers",), 10**8, r"run\.workers is 100000000, not an integer from 1 to 1048576"),
        (("ranks",), 2**20, "1048576 ranks of 2 workers, more than the 1048576 that a run may have"),
        (("records", 0, 0), 10**6, r"run\.records\[0\] is 1000000, not an integer from 0 to 34"),
        (("messages", 0, 7), [0, 9], r"run\.messages\[0\] is 9, not an integer from 0 to 2"),
        (("records", 1, 3), float("inf"), r"run\.records\[1\] is inf, not a number from 0"),
        (("machine", "surprise"), 1, "the machine has a field 'surprise', which this version does not know"),
        (("machine", "durations", "potrf"), {"-1": 2}, "'-1' is no tile size"),
        (("handles", 1), ["A", [0, 0]], "it names a handle twice"),
    ],
)
def test_what_cannot_be_is_named(path, value, message, tmp_path):
    file = tmp_path / "run.json"
    simulated().save(file)
    document = json.loads(file.read_text())
    change(document, *path, value=value)
    file.write_text(json.dumps(document))
    with pytest.raises(ValueError, match=message):
        load(file)


@pytest.mark.parametrize("text", ["[" * 100_000, "", "\xff", '{"tilewright_run": 1e999}', "NaN", "9" * 5000])
def test_what_is_no_json_or_not_ours_is_refused(text, tmp_path):
    (tmp_path / "run.json").write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=r"run\.json (is no saved run|has format)"):
        load(tmp_path / "run.json")


def test_many_workers_take_no_time_to_draw(tmp_path):
    file = tmp_path / "run.json"
    simulated().save(file)
    document = json.loads(file.read_text()) | {"workers": 2**19}
    file.write_text(json.dumps(document))
    load(file).report(tmp_path / "run.html")
    assert (tmp_path / "run.html").stat().st_size < 10**6
