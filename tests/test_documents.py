"""The examples in README.md and docs/*.md are true.

The convention, for those who write documents; each ```` ```python ```` block has one of these lines before its fence:

- ``<!-- runs -->``: it is executed here, with ``tw``, ``np`` and ``spd(n)`` (a random positive definite matrix) at hand.
  The blocks of one file run in order and share their names; the working folder is empty and temporary. In the README
  none of that is at hand: each block runs as it is pasted.
- ``<!-- runs with: A = spd(96); nt = 4 -->`` first executes that, for what the reader is assumed to have.
- ``<!-- runs on the CPU with: ... -->``: so is this, with "cpu" for "cuda".
- ``<!-- not run: why -->``: it is only compiled. It needs a GPU, a cluster or minutes.
- A block with ``>>>`` is a doctest: its output is compared.
- Every ``$ tilewright ...`` line of a ```` ```console ```` block must be a command that exists, with options it has.
- Every file that a document links to must be in the repository.
- Every ```` `test_name` ```` in a row of a table is a test or a file of tests; ```` `test_name...` ```` is how a name begins.
"""

import ast
import doctest
import re
import shlex
import textwrap
from functools import cache
from pathlib import Path

import click
import numpy as np
import pytest

import tilewright as tw
from tilewright.cli import main

pytestmark = pytest.mark.long

ROOT = Path(__file__).parent.parent
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
BLOCK = re.compile(r"^(?P<indent> *)(?:<!-- (?P<mark>[^\n]*?) -->\n *)?```python\n(?P<code>.*?)^ *```$", re.M | re.S)
MARK = re.compile(r"runs(?P<cpu> on the CPU)?(?: with: (?P<setup>.+))?|not run: (?P<why>.+)")
CONSOLE = re.compile(r"^```console\n(.*?)^```$", re.M | re.S)
TEST = re.compile(r"`(test_\w+)(\.\.\.)?`")
LINK = re.compile(r"!?\[[^]]*\]\(([^)\s]+)\)")


def spd(n):
    """A random symmetric positive definite matrix."""
    b = np.random.default_rng(n).standard_normal((n, n))
    return b @ b.T + n * np.eye(n)


def blocks(document):
    """(line, what the line before says, code) of each Python block."""
    text = document.read_text(encoding="utf-8")
    for match in BLOCK.finditer(text):
        line = text.count("\n", 0, match.start("code")) + 1
        yield line, MARK.fullmatch(match["mark"] or ""), textwrap.dedent(match["code"])


def running(document):
    """(line, setup, code) of those that run."""
    found = [(line, said, code) for line, said, code in blocks(document) if said and not said["why"]]
    return [
        (line, said["setup"] or "", code.replace('"cuda"', '"cpu"') if said["cpu"] else code)
        for line, said, code in found
    ]


def name(document):
    return str(document.relative_to(ROOT))


RUNNING = [document for document in DOCUMENTS[1:] if running(document)]


@pytest.mark.parametrize("document", RUNNING, ids=name)
def test_marked_examples_run(document, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TILEWRIGHT_CACHE", str(tmp_path))  # a calibration of the reader's own computer stays there
    names = {"tw": tw, "np": np, "spd": spd, "__name__": "example"}
    for line, setup, code in running(document):
        exec(setup, names)
        if ">>> " in code:
            test = doctest.DocTestParser().get_doctest(code, names, name(document), str(document), line)
            failures = []
            doctest.DocTestRunner(verbose=False).run(test, out=failures.append, clear_globs=False)
            assert failures == []
            names.update(test.globs)
        else:
            # Padded, so that a traceback shows the line of the document.
            exec(compile("\n" * (line - 1) + code, str(document), "exec"), names)


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_every_python_block_compiles(document):
    for line, _, code in blocks(document):
        if ">>> " not in code:
            compile("\n" * (line - 1) + code, str(document), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_every_python_block_runs_or_says_why_not(document):
    assert [f"line {line}: {code[:60]}" for line, said, code in blocks(document) if said is None] == []
    assert document.read_text(encoding="utf-8").count("```python") == len(list(blocks(document)))


def commands():
    for document in DOCUMENTS:
        for block in CONSOLE.findall(document.read_text(encoding="utf-8")):
            for line in block.splitlines():
                found = re.match(r"\$ tilewright (.*)", line)
                if found:
                    yield pytest.param(found[1], id=f"{document.name}: {found[1].split('#')[0].strip()}")


@pytest.mark.parametrize("line", list(commands()))
def test_every_command_line_is_understood(line):
    command, arguments = main, shlex.split(line, comments=True)
    context = click.Context(main)
    while isinstance(command, click.Group) and arguments and not arguments[0].startswith("-"):
        word = arguments.pop(0)
        found = command.get_command(context, word)
        assert found is not None, f"there is no command {word!r}"
        command = found
        context = click.Context(command, parent=context, info_name=word)
    values, rest, _ = command.make_parser(context).parse_args(arguments)  # raises for an option it does not have
    assert rest == []
    for parameter in command.params:
        if isinstance(parameter, click.Argument) and parameter.required:
            assert values.get(parameter.name), f"{parameter.human_readable_name} is missing"


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_every_link_inside_the_repository_leads_somewhere(document):
    links = LINK.findall(re.sub(r"^```.*?^```$", "", document.read_text(encoding="utf-8"), flags=re.M | re.S))
    missing = [link for link in links if "://" not in link and not (document.parent / link.split("#")[0]).exists()]
    assert missing == []


def test_the_readme_is_short_and_each_of_its_blocks_runs_as_it_is_pasted(tmp_path, monkeypatch):
    readme = ROOT / "README.md"
    assert len(readme.read_text(encoding="utf-8").splitlines()) <= 150
    monkeypatch.chdir(tmp_path)
    pasted = [(setup, code) for _, setup, code in running(readme)]
    assert len(pasted) == readme.read_text(encoding="utf-8").count("```python") >= 4
    for setup, code in pasted:
        assert not setup
        exec(compile(code, str(readme), "exec"), {"__name__": "example"})


def test_the_policy_of_the_tour_is_run():
    assert "class Shortest" in "".join(code for *_, code in running(ROOT / "docs" / "tour.md"))


@cache
def files_by_test():
    """Names of all tests, and of the files they are in."""
    files = list((ROOT / "tests").rglob("test_*.py"))
    claims = {claim for file in files for claim in re.findall(r"^ *def (test_\w+)", file.read_text(), re.M)}
    return claims | {file.stem for file in files}


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_every_test_that_a_table_names_exists(document):
    claims = files_by_test()
    rows = "\n".join(line for line in document.read_text(encoding="utf-8").splitlines() if line.startswith("|"))
    for claim, more in TEST.findall(rows):
        assert claim in claims or (more and any(known.startswith(claim) for known in claims)), claim


SEEDS = {
    r"\bthe\s+notebook(?!\s+cell)": "Lab 2.1.4: Mixed Precision Training",
    r"\bthe\s+lecture\b": "Parallel scalability",
}
"""What the two documents behind this library are called for short, and the title that says which they are."""


@pytest.mark.parametrize(("short", "title"), SEEDS.items(), ids=SEEDS.values())
def test_who_says_the_lecture_or_the_notebook_names_it_in_the_same_file(short, title):
    files = [file for file in DOCUMENTS if file.parent.name != "decisions"]
    files += [f for room in ("runtime", "kernels", "schedulers", "examples") for f in (ROOT / room).rglob("*.py")]
    texts = {name(file): file.read_text(encoding="utf-8") for file in files}
    said = {file: text for file, text in texts.items() if re.search(short, text, re.I)}
    assert len(said) > 5
    assert [file for file, text in said.items() if title not in " ".join(text.split())] == []


def test_the_page_of_each_document_names_its_author_or_number():
    assert "V. Eijkhout" in (ROOT / "README.md").read_text(encoding="utf-8")
    for page in ("communication", "sparse"):
        assert "Eijkhout" in (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
