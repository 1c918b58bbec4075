"""Which library serves which op: rules, and what goes before them."""

import os
import pickle
import subprocess
import sys

import pytest

from tilewright.kernels import blas, choice, cpu, preference


@pytest.fixture
def computer(monkeypatch, restore_blas, tmp_path):
    """A computer of another maker, with these libraries and nothing stored."""
    loaded = {name: found for name, found in blas.available().items() if isinstance(found, blas.Library)}

    def pretend(vendor, *libraries):
        def load(name):
            if name not in libraries:
                raise OSError(f"no {name}")
            real = loaded.get(name) or loaded["openblas"]
            return blas.Library(name, real.version, real.path, real.symbol, real.threads)

        monkeypatch.setenv(cpu.VARIABLE, vendor)
        monkeypatch.setenv("TILEWRIGHT_CACHE", str(tmp_path))
        monkeypatch.delenv(choice.VARIABLE, raising=False)
        monkeypatch.setattr(blas, "load", load)
        forget()

    def forget():
        choice.use(None)
        choice._try.cache_clear()
        preference.stored.cache_clear()

    yield pretend
    monkeypatch.undo()
    forget()


ALL = ("mkl", "torch", "openblas")


@pytest.mark.parametrize(
    ("vendor", "here", "chosen"),
    [
        ("intel", ALL, "mkl"),
        ("intel", ("torch", "openblas"), "torch"),
        ("intel", ("openblas",), "openblas"),
        ("amd", ALL, "openblas"),
        ("amd", ("mkl", "torch"), "mkl"),
        ("arm", ("openblas",), "openblas"),
        ("other", ALL, "openblas"),
        ("other", ("torch",), "torch"),
    ],
)
def test_the_maker_of_the_cpu_decides_and_what_is_there(computer, vendor, here, chosen):
    computer(vendor, *here)
    assert choice.current().name == chosen
    own = {op for rule in choice.RULES for op in rule.ops}  # which have a rule of their own
    libraries = dict(choice.choice().libraries)
    assert {name for op, row in libraries.items() if op not in own for name in row.split()} == {chosen}
    if vendor == "intel" and "openblas" in here:
        assert libraries["swpgemm"].split() == [chosen, "openblas", chosen, chosen]
    assert vendor != "intel" or set(libraries["getrf"].split()) == {"openblas"} & set(here) or "openblas" not in here


def test_every_op_dtype_and_maker_has_a_rule_with_a_reason():
    for vendor in ("intel", "amd", "arm", "other"):
        for op in choice.ROUTINES:
            for letter in "sdcz":
                row = choice.rule(op, letter, vendor)
                assert row.vendor in ("", vendor) and len(row.reason) > 20
                assert set(row.order) <= set(blas.NAMES)


def test_no_library_at_all_is_one_sentence(computer):
    computer("intel")
    with pytest.raises(OSError, match="no BLAS library with dgemm is here.*pip install"):
        choice.current()


def test_use_names_one_library_for_all_and_none_returns_to_the_rules(computer):
    computer("amd", *ALL)
    choice.use("torch")
    assert {name for _, row in choice.choice().libraries for name in row.split()} == {"torch"}
    choice.use(None)
    assert choice.current().name == "openblas"


def test_unknown_library_changes_nothing(restore_blas):
    before = choice.current()
    with pytest.raises(ValueError, match="unknown BLAS 'atlas'; known: mkl, torch, openblas"):
        choice.use("atlas")
    assert choice.current() is before


def named(**environment):
    """What `current` says in a fresh interpreter: the library's name, or the error."""
    code = (
        "from tilewright.kernels import choice\n"
        "try: print(choice.current().name)\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    clean = {key: value for key, value in os.environ.items() if key != choice.VARIABLE}
    return subprocess.check_output([sys.executable, "-c", code], env=clean | environment, text=True).strip()


def test_environment_names_one_library_for_all():
    for name, found in blas.available().items():
        if isinstance(found, blas.Library):
            assert named(TILEWRIGHT_BLAS=name) == name


def test_an_empty_variable_names_none():
    assert named(TILEWRIGHT_BLAS="") == named()


def test_unknown_name_in_the_environment_is_an_error_that_names_the_variable():
    assert named(TILEWRIGHT_BLAS="atlas") == (
        "ValueError TILEWRIGHT_BLAS=atlas: unknown BLAS 'atlas'; known: mkl, torch, openblas"
    )


# ------------------------------------------------------------------ other processes


def test_a_choice_is_plain_data_and_equal_in_equal_processes():
    code = "import pickle, sys; from tilewright.kernels import choice; sys.stdout.buffer.write(pickle.dumps(choice.choice()))"
    assert pickle.loads(subprocess.check_output([sys.executable, "-c", code])) == choice.choice()


def test_who_adopts_a_choice_computes_with_the_same_libraries(computer):
    computer("intel", "torch", "openblas")
    theirs = choice.choice()
    choice.use("openblas")
    choice.adopt(theirs)
    assert choice.choice() == theirs
    assert choice.current().name == "torch"


def test_a_library_that_is_not_here_is_not_adopted_and_the_sentence_says_what_to_do(computer):
    computer("intel", *ALL)
    theirs = choice.choice()
    computer("intel", "openblas")
    with pytest.raises(OSError, match="the caller's kernels are those of mkl, which this process cannot load"):
        choice.adopt(theirs)
    assert choice.current().name == "openblas"


def test_another_version_is_not_adopted(computer):
    computer("amd", *ALL)
    theirs = choice.choice()
    (name, _, mode) = theirs.modes[0]
    with pytest.raises(OSError, match="those of openblas 0.0.1, but here that is"):
        choice.adopt(theirs._replace(modes=((name, "0.0.1", mode),)))


def test_another_build_of_scipy_is_not_adopted_and_nothing_changes(computer):
    """Bits of a panel differ where one process has ?getrf2 inside its library and another has not."""
    computer("intel", "torch", "openblas")
    ours = choice.choice()
    theirs = ours._replace(inside=tuple(sorted(set(choice.INSIDE) ^ set(ours.inside))))
    assert theirs != ours
    with pytest.raises(OSError, match=r"inside SciPy's library \(sgetrf2, .*zhetrd_hb2st\).*same build of SciPy"):
        choice.adopt(theirs)
    assert choice.choice() == ours
    choice.adopt(ours)


def test_a_choice_says_what_its_library_has_not_inside(computer):
    computer("amd", "openblas")
    ours = choice.choice()
    assert str(ours._replace(inside=choice.INSIDE)).endswith(")")
    assert str(ours._replace(inside=choice.INSIDE[1:])).endswith(") without sgetrf2")


# ------------------------------------------------------------------ a stored preference


def test_a_stored_preference_goes_before_the_rules_op_by_op(computer):
    computer("amd", *ALL)
    preference.store({"dtrsm": "torch"})
    choice.use(None)
    assert choice.library("trsm", "d").name == "torch"
    assert choice.library("trsm", "s").name == choice.library("gemm", "d").name == "openblas"
    assert ("trsm", "d", "torch", "measured on this computer") in choice.table()
    preference.forget()
    choice.use(None)
    assert choice.library("trsm", "d").name == "openblas"


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"dgemm": "atlas"}', '{"dgemm": 3}', "\udce4".encode("utf-8", "surrogateescape")]
)
def test_a_damaged_file_is_a_warning_and_the_rules_hold(computer, text):
    computer("amd", *ALL)
    file = preference.store({"dgemm": "torch"})
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    preference.stored.cache_clear()
    choice.use(None)
    with pytest.warns(RuntimeWarning, match="the stored choice of BLAS is not used"):
        assert choice.current().name == "openblas"
