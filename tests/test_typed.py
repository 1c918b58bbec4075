"""What type checkers are told is true: the script that they read runs, keywords are those there are, and calls return
the kinds that their overloads promise.
"""

import ast
import inspect
import typing

import numpy as np
import pytest
import typed

import tilewright as tw
from tilewright import kinds
from tilewright.backends import BACKENDS, engine_class
from tilewright.linalg.eigen import Eigh
from tilewright.linalg.svd import SVD


def test_what_the_type_checkers_are_shown_runs():
    x, L, y = typed.main()
    assert np.allclose(L @ L.T @ x, np.ones(40), atol=1e-3)
    assert np.allclose(L @ L.T @ y, np.ones(40))


def public():
    for room in (tw, tw.linalg):
        for name in room.__all__:
            yield f"{'linalg.' * (room is tw.linalg)}{name}", getattr(room, name)


OVERLOADED = {name: typing.get_overloads(inspect.unwrap(call)) for name, call in public() if inspect.isroutine(call)}
OVERLOADED = {name: overloads for name, overloads in OVERLOADED.items() if overloads}


def keywords(function):
    """(parameters, the names in their TypedDict) of a call or an overload."""
    parameters = inspect.signature(function).parameters
    extra = next((p.annotation for p in parameters.values() if p.kind is p.VAR_KEYWORD), "")
    known = getattr(kinds, extra.removeprefix("Unpack[").rstrip("]"), None)
    own = {name for name, p in parameters.items() if p.kind is not p.VAR_KEYWORD}
    return own, set(known.__annotations__) if known else set()


def positional(function):
    """Names of parameters that may be given by place, in order."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [name for name, p in inspect.signature(function).parameters.items() if p.kind in kinds]


def test_options_of_engines_are_those_that_type_checkers_know():
    assert {"machine", *kinds.EngineOptions.__annotations__} == {
        o for name in BACKENDS for o in engine_class(name).options
    }


HANDED_ON = {"lu": tw.lu_factor, "cond": tw.inv, "det": tw.lu_factor, "slogdet": tw.lu_factor}
LEFT_OUT = {"return_run", "memory", "checkpoint", "resume", "every", "restart", "overwrite_out", "out"}
"""Of keywords that are handed on: what makes no sense there."""


@pytest.mark.parametrize("name", [*OVERLOADED, "det", "slogdet", "cond"])
def test_every_keyword_of_a_call_is_known_to_type_checkers_and_no_other(name):
    call = dict(public())[name]
    own, _ = keywords(call)
    for overload in OVERLOADED.get(name, [inspect.unwrap(call)]):
        named, options = keywords(overload)
        assert not named & options
        assert named <= own
        known = named | options
        if name in HANDED_ON:
            own |= keywords(HANDED_ON[name])[0] - {"a"}
            assert own - known <= LEFT_OUT
        elif not name.startswith("linalg."):
            assert own - known == set(), overload
        assert options - own <= set(kinds.Options.__annotations__) | set(kinds.EngineOptions.__annotations__)
        assert positional(overload) == positional(call)


# ------------------------------------------------------------------ what comes back

rng = np.random.default_rng(0)
S, B = tw.random_spd(8), rng.standard_normal((8, 2))
L = np.linalg.cholesky(S)
F = tw.lu_factor(S)
CASES = {
    "tiled_cholesky": [(S,), {"workers": 1}],
    "cho_inverse": [(L,), {}],
    "logdet": [(L,), {}],
    "cho_solve": [(L, B), {}],
    "eigh": [(S,), {}],
    "eigvalsh": [(S,), {}],
    "svd": [(S,), {}],
    "svdvals": [(S,), {}],
    "svd_lowrank": [(S, 2), {}],
    "polar": [(S,), {}],
    "lstsq": [(S, B), {}],
    "lu_factor": [(S,), {}],
    "lu_solve": [(F, B), {}],
    "lu": [(S,), {}],
    "qr": [(S,), {"mode": "full"}],
    "solve": [(S, B), {}],
    "inv": [(S,), {}],
    "norm": [(S,), {}],
    "tri_inverse": [(L,), {}],
    "gemm": [(S, S), {}],
    "syrk": [(S,), {}],
    "herk": [(S,), {}],
    "trsm": [(L, B), {}],
    "trmm": [(L, B), {}],
    "lauum": [(L,), {}],
    "potri": [(L,), {}],
    "qr_factor": [(S,), {}],
    "matvec": [(S, B[:, 0]), {"ranks": 1}],
    "cg": [(S, B[:, 0]), {}],
    "linalg.matmul": [(S, B), {}],
    "linalg.solve": [(S, B), {}],
    "linalg.outer": [(B[:, 0], B[:, 1]), {}],
    "linalg.tensordot": [(S, S), {"axes": 1}],
    "linalg.cross": [(B[:3, 0], B[:3, 1]), {}],
    "linalg.matrix_power": [(S, 2), {}],
    "linalg.inv": [(S,), {}],
    "linalg.cholesky": [(S,), {}],
    "linalg.diagonal": [(S,), {}],
    "linalg.matrix_transpose": [(S,), {}],
}


ON_DASK = ("tiled_cholesky", "eigh", "solve", "inv", "gemm", "cho_solve")


def tensor(a):
    return pytest.importorskip("torch").tensor(a)


def chunked(a):
    return pytest.importorskip("dask.array").from_array(a, chunks=4)


def tiled(a):
    return tw.TiledMatrix.from_numpy(a.reshape(len(a), -1), 4)


MADE = {"array": np.asarray, "list": np.ndarray.tolist, "tensor": tensor, "tiles": tiled, "chunks": chunked}
TAKES = {"ArrayLike": {*MADE}, "K": {"tensor", "tiles", "chunks"}, "C": {"tensor", "chunks"}, "T": {"tensor"}}
TAKES |= {"TiledMatrix": {"tiles"}}
RETURNS = {"np.ndarray": np.ndarray, "np.float64": np.float64, "float": float, "int": int, "None": type(None)}
RETURNS |= {"Run": tw.Run, "LUFactor": tw.LUFactor, "QRFactor": tw.QRFactor, "SolveInfo": tw.SolveInfo}


def promised(name, kinds_given, flag):
    """What the first overload that takes these kinds says that it returns, and the kind that it calls K, C or T.

    None if there is no such overload.
    """
    for overload in OVERLOADED[name]:
        signature, letter = inspect.signature(overload), None
        for parameter, kind in zip(signature.parameters.values(), kinds_given, strict=False):
            words = {word.strip() for word in parameter.annotation.split("|")}
            if kind and not words & {"Matrix", "Any"}:
                if not any(kind in TAKES.get(word, ()) for word in words):
                    break
                letter = letter or (kind if words & {"K", "C", "T"} else None)
        else:
            switch = next((p for n, p in signature.parameters.items() if n.startswith("return_")), None)
            if switch is None or switch.annotation == "bool" or f"[{flag}]" in switch.annotation:
                return signature.return_annotation, letter
    return None


def is_as_said(value, said, kind):
    """Whether a value is of the type that an annotation, a string or a tree, says."""
    if isinstance(said, str):
        said = ast.parse(said, mode="eval").body
    text = ast.unparse(said)
    if text == "Any":
        return True
    if text in ("K", "C", "T"):
        return type(value) is type(MADE[kind](S))
    if isinstance(said, ast.BinOp):
        return is_as_said(value, said.left, kind) or is_as_said(value, said.right, kind)
    if isinstance(said, ast.Subscript):
        named = {"Eigh": Eigh, "SVD": SVD}.get(ast.unparse(said.value))
        parts = said.slice.elts if isinstance(said.slice, ast.Tuple) else [said.slice]
        if named:
            fields = [field.__forward_arg__ for field in named.__annotations__.values()]
            parts = [said.slice if field == "V" else field for field in fields]
        right = isinstance(value, named or tuple) and len(value) == len(parts)
        return right and all(is_as_said(v, part, kind) for v, part in zip(value, parts, strict=True))
    return isinstance(value, RETURNS[text]) if text in RETURNS else type(value).__name__ == text


def cases():
    for name, (arguments, _) in CASES.items():
        matrices = [isinstance(a, np.ndarray) for a in arguments]
        for place in [k for k, is_matrix in enumerate(matrices) if is_matrix]:
            for kind in [kind for kind in MADE if kind != "chunks" or name in ON_DASK]:
                given = tuple(
                    (kind if k == place else "array") if is_matrix else None for k, is_matrix in enumerate(matrices)
                )
                yield pytest.param(name, given, id=f"{name}-{'-'.join(str(k) for k in given if k)}")


@pytest.mark.parametrize(("name", "given"), list(cases()))
def test_calls_return_the_kinds_that_their_overloads_promise(name, given):
    arguments, how = CASES[name]
    values = [MADE[kind](value) if kind else value for value, kind in zip(arguments, given, strict=True)]
    switch = next((n for n in inspect.signature(dict(public())[name]).parameters if n.startswith("return_")), None)
    for flag in (False, True)[: 1 + (switch is not None)]:
        said = promised(name, given, flag)
        try:
            found = dict(public())[name](*values, **how, **({switch: flag} if flag else {}))
        except (TypeError, ValueError) as error:
            assert said is None or {"chunks", "tiles"} & set(given), error  # which some calls refuse
        else:
            assert said and is_as_said(found, *said), (said, found)


def test_the_comparison_of_kinds_finds_a_wrong_one():
    assert is_as_said((S, S), "tuple[np.ndarray, np.ndarray]", None)
    assert not is_as_said((S, S), "tuple[np.ndarray, np.ndarray, Run]", None)
    assert not is_as_said(tiled(S), "np.ndarray", None)
    assert not is_as_said(S, "K", "tiles")
    assert is_as_said(tw.eigh(S), "Eigh[np.ndarray]", None) and not is_as_said(tw.eigh(S), "Eigh[K]", "tiles")
