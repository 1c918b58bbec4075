# ruff: noqa: C408 - a table of calls with their keywords
"""Every public function and constructor refuses what it cannot use, in a sentence that names the argument.

The test walks over the public names. For each a table here has a call that works; then one parameter at a time gets values
that are mostly wrong. What may happen is decided by the kind of the parameter: a value that it allows works, any other
raises ValueError or TypeError whose message names the parameter, within a time limit.
"""

import inspect
import itertools
import math
import re
import signal
from contextlib import contextmanager

import networkx
import numpy as np
import pytest

import tilewright as tw
from tilewright import comm, kernels, mpi, plot, training

NAN, INF = math.nan, math.inf

VALUES = {
    "None": None, "nonsense": "nonsense", "empty": "", "nan": NAN, "inf": INF, "negative": -1, "zero": 0,
    "fraction": 1.5, "true": True, "bytes": b"x", "object": object(), "list": [], "dict": {}, "function": len,
    "class": int, "cube": np.zeros((2, 3, 4)), "complex": 1j,
    "huge": 2**70, "vast": 1e300,
}  # fmt: skip

LARGE = {"count": {"huge"}, "natural": {"huge"}, "integer": {"huge"}}
LARGE |= {kind: {"huge", "vast"} for kind in ("positive", "real", "signed", "above one", "share")}
"""Large numbers of the right kind: some calls can use them, others say that they are too large."""

#  kind of a parameter: the values that it allows, and why where that is not plain
KINDS = {
    "count": set(),
    "natural": {"zero"},
    "integer": {"zero", "negative"},
    "positive": {"fraction"},
    "real": {"zero", "fraction"},
    "signed": {"zero", "fraction", "negative"},
    "above one": {"fraction"},
    "share": set(),  # between 0 and 1
    "flag": {"true", "zero"},
    "name": set(),
    "text": {"nonsense", "empty"},
    "scalar": {"zero", "fraction", "negative", "nan", "inf", "complex", "huge", "vast"},
    "factor": {"zero", "fraction", "negative", "nan", "inf", "huge", "vast"},
    "graph": set(), "machine": set(), "handle": set(), "matrix": set(), "op": set(), "class": {"class"},
    "function": {"function", "class"},
    "scheduler": set(),
    "owner": {"zero", "dict"},  # all on one rank; no rule of its own for any handle
    "data": set(),
    "counts": set(),
    "options": {"dict"},
}  # fmt: skip


class Call:
    """A call that works, and the kinds of its parameters.

    ``count?``: also None; ``name+empty``: also that value; ``count~function``: that value is not tried, as what it does is
    its own affair.
    """

    def __init__(self, function, good, /, aliases=(), **kinds):
        self.function, self.good, self.kinds = function, good, kinds
        self.aliases = dict(aliases)

    def parameters(self):
        return list(self.kinds)

    def allowed(self, name):
        kind, *extra = self._words(name)
        optional = "?" in self.kinds[name]
        return KINDS[kind] | {*extra} | ({"None"} if optional else set())

    def possible(self, name):
        """What may be accepted or refused."""
        return LARGE.get(self._words(name)[0], set())

    def _words(self, name):
        return self.kinds[name].partition("~")[0].replace("?", "").split("+")


def spd(n=8):
    return 4 * np.eye(n)


def graph():
    g = tw.TaskGraph("g")
    x, y = g.handle("x"), g.handle("y")
    g.insert(step, tw.R(x), tw.W(y))
    return g


def step(x, y):
    y[...] = x


def data():
    return {"x": np.zeros(2), "y": np.zeros(2)}


def owner(handle):
    return 0


MACHINE = tw.Machine(alpha=1e-6, beta=1e-9, gamma=1e-9)
ENGINE = dict(tile_size="count?", backend="name?", scheduler="scheduler", workers="count?")
PROGRESS = "flag~function~class"
# without out= and checkpoint= the rest says what it needs; 1.5 bytes are too few, which is a MemoryError
OUTSIDE = dict(
    out="name?",
    memory="name?~fraction",
    checkpoint="name?+nonsense",
    resume="name+zero",
    every="name+zero",
    overwrite_out="name+zero",
    restart="name+zero",
)
IN_CORE = {name: kind for name, kind in OUTSIDE.items() if name not in ("out", "overwrite_out")}
COLLECTIVE = dict(ranks="count", n="natural", algorithm="name", machine="machine?")
ROOTED = COLLECTIVE | {"root": "natural"}


def collective(function):
    kinds = ROOTED if "root" in inspect.signature(function).parameters else COLLECTIVE
    return Call(function, lambda: dict(ranks=2, n=4, algorithm="auto"), **kinds)


TRIANGLE = dict(side="name", uplo="name", trans="name", diag="name", alpha="scalar", overwrite_b="flag")
numbers = itertools.count()
ROOM = dict(
    shape="counts+zero+list~function~class~huge",
    dtype="name+list+dict+class~function",
    keep="flag",
    device="name?~object~function~class~cube",
)


def room():
    """A handle of a new name each time: a graph has one room of a name."""
    return dict(name=f"x{next(numbers)}", shape=(2,), dtype="float64")


CALLS = {
    # -------------------------------------------------------------- graphs and their nouns
    "R": Call(tw.R, lambda: dict(handle=tw.Handle("x")), handle="handle"),
    "W": Call(tw.W, lambda: dict(handle=tw.Handle("x")), handle="handle"),
    "RW": Call(tw.RW, lambda: dict(handle=tw.Handle("x")), handle="handle"),
    "TaskGraph": Call(tw.TaskGraph, dict, name="text"),
    "TaskGraph.handle": Call(tw.TaskGraph().handle, room, name="text", **ROOM),
    "TaskGraph.handles": Call(tw.TaskGraph().handles, room, name="text", **ROOM, like="text"),
    "Op": Call(tw.Op, lambda: dict(name="op"), name="text", function="function?", weight="real", flops="function?",
               indices="function", explain="function?", external="flag", in_place="flag", fresh="flag", source="text",
               again="name+empty", operands="name+empty"),
    "BlockCyclic": Call(tw.BlockCyclic, lambda: dict(P=1, Q=2), P="count", Q="count"),
    "SymmetricBlockCyclic": Call(tw.SymmetricBlockCyclic, lambda: dict(r=3), r="count"),
    "RowBlocks": Call(tw.RowBlocks, lambda: dict(ranks=1, mt=2), ranks="count", mt="count"),
    "Machine": Call(tw.Machine, dict, workers="count", ranks="count", gpus="natural", alpha="real", beta="real",
                    gamma="real?", tile_size="count", durations="options", acceleration="options", overhead="real",
                    device_alpha="real", device_beta="real", dispatch="real", sockets="count", socket_alpha="real", socket_beta="real",
                    shape="function?", itemsize="function?"),
    "MessagePlan": Call(tw.MessagePlan, lambda: dict(graph=graph(), ranks=2, owner=0), graph="graph", ranks="count",
                        owner="owner?~function~class", start="natural?", collect="counts+list+dict", results="counts?+list+dict",
                        broadcast="name?", places="counts?"),
    "bounds": Call(tw.bounds, lambda: dict(graph=graph(), workers=2), graph="graph", workers="count", cost="counts?~function~class"),
    "cholesky_graph": Call(tw.cholesky_graph, lambda: dict(nt=2), nt="natural"),
    "Store": Call(tw.Store, lambda: dict(data=data()), data="data+dict"),
    "TiledMatrix.empty": Call(tw.TiledMatrix.empty, lambda: dict(shape=(4, 4), tile_size=2), shape="data",
                              tile_size="count", dtype="data+None+class"),
    "TiledMatrix.view": Call(tw.TiledMatrix.view, lambda: dict(array=np.zeros((4, 4)), tile_size=2), array="matrix",
                             tile_size="count"),
    "TiledMatrix.from_numpy": Call(tw.TiledMatrix.from_numpy, lambda: dict(array=np.zeros((4, 4)), tile_size=2),
                                   array="matrix", tile_size="count"),
    "PrecisionMap": Call(tw.PrecisionMap, lambda: dict(formats=[["fp32"]]), formats="data", tile_size="count?",
                         note="text"),
    "PrecisionMap.uniform": Call(tw.PrecisionMap.uniform, lambda: dict(nt=2, format="fp32"), {"format": "precision"}, nt="natural", format="name"),
    "Resident": Call(tw.Resident, lambda: dict(data={tw.Handle("x"): np.zeros(2)}, ranks=1, owner=owner, backend="serial"),
                     data="data+dict", ranks="count", owner="function~function~class", backend="name?",
                     pool="data+None", comm="data+None", synchronous="flag", copy="flag", scheduler="scheduler",
                     workers="count?"),
    # -------------------------------------------------------------- runs
    "prepare": Call(tw.prepare, lambda: dict(graph=graph(), data=data(), backend="serial"), graph="graph", data="data",
                    inputs="data+list+dict", outputs="data?+list+dict", carry="data?+dict", backend="name?",
                    scheduler="scheduler", workers="count?", threads_per_task="count", dtype="class?"),
    "run": Call(tw.run, lambda: dict(graph=graph(), data=data(), backend="serial"), graph="graph", data="data",
                backend="name?", scheduler="scheduler", workers="count?", machine="machine?",
                progress="flag~function~class", threads_per_task="count"),
    "simulate": Call(tw.simulate, lambda: dict(graph=graph()), graph="graph", machine="machine?", scheduler="scheduler",
                     owner="owner?~class", data="data+None", broadcast="name?", noise="real~function~class", seed="integer",
                     progress="flag~function~class"),
    "compare_schedulers": Call(tw.compare_schedulers, lambda: dict(graph=graph(), workers=1, schedulers=["eager"]),
                               graph="graph", workers="counts", backend="name", data="data+None~function~class",
                               schedulers="counts?", machine="machine?", owner="owner?~class", repeat="count?", vary="options?",
                               progress="flag~function~class"),
    "compare_engines": Call(tw.compare_engines,
                            lambda: dict(graph=graph(), data=data(), engines=["threads"], workers=1, repeat=1),
                            graph="graph", data="data~function~class", engines="counts~None", workers="count?",
                            scheduler="scheduler", repeat="count?", machine="machine?", progress="flag~function~class"),
    "contention_study": Call(tw.contention_study,
                             lambda: dict(graph=graph(), tile_sizes=[4], workers=[1], dispatch=1e-6,
                                          machine=tw.Machine(gamma=1e-9)),
                             graph="graph?", tile_sizes="counts", workers="counts", dispatch="real?", machine="machine?",
                             scheduler="scheduler"),
    # -------------------------------------------------------------- dense algebra
    "tiled_cholesky": Call(tw.tiled_cholesky, lambda: dict(a=spd(), tile_size=4), a="matrix", lower="flag",
                           **ENGINE, overwrite_a="flag", check_finite="flag", return_run="flag",
                           progress="flag~function~class", precision="name?", route="name?", emulate="flag", **OUTSIDE),
    "TileFunction": Call(tw.TileFunction, lambda: dict(make=len, shape=(4, 4), tile_size=2), make="function",
                         shape="counts~huge", tile_size="count", dtype="name"),
    "plan": Call(tw.plan, lambda: dict(graph=tw.cholesky_graph(nt=2), tile_size=4), graph="graph", tile_size="count",
                 dtype="name", memory="name?~fraction", workers="count?", disk="positive"),
    "solve": Call(tw.solve, lambda: dict(a=spd(), b=np.ones(8), tile_size=4), a="matrix", b="matrix", assume_a="name?",
                  pivoting="name?", lower="flag", precision="name", refine="name", fallback="flag", check_finite="flag",
                  check_symmetric="flag", transposed="flag", **ENGINE, return_info="flag",
                  progress="flag~function~class", memory="name?"),
    "cho_solve": Call(tw.cho_solve, lambda: dict(L=spd(), b=np.ones(8), tile_size=4), L="matrix", b="matrix",
                      lower="flag", **ENGINE, check_finite="flag", return_run="flag", progress=PROGRESS),
    "logdet": Call(tw.logdet, lambda: dict(L=spd(), tile_size=4), L="matrix", **ENGINE, return_run="flag", progress=PROGRESS),
    "cho_inverse": Call(tw.cho_inverse, lambda: dict(L=spd(), tile_size=4), L="matrix", lower="flag", **ENGINE,
                        check_finite="flag", return_run="flag", progress=PROGRESS),
    "tri_inverse": Call(tw.tri_inverse, lambda: dict(a=spd(), tile_size=4), a="matrix", lower="flag",
                        unit_diagonal="flag", **ENGINE, overwrite_a="flag", check_finite="flag",
                        return_run="flag", progress="flag~function~class"),
    "random_spd": Call(tw.random_spd, lambda: dict(n=4), n="natural", dtype="name", seed="natural"),
    "lu_graph": Call(tw.lu_graph, lambda: dict(mt=2, nt=2, update="column"), mt="natural", nt="natural", pivoting="name", update="name",
                     ranks="count", leaf="count", shape="data+None", tile_size="count?", dtype="name", panel="name",
                     threshold="share?", together="count"),
    "lu_factor": Call(tw.lu_factor, lambda: dict(a=spd(), tile_size=4), a="matrix", overwrite_a="flag",
                      check_finite="flag", pivoting="name?", update="name?", panel="name?", threshold="share?",
                      **ENGINE, return_run="flag", progress="flag~function~class", **OUTSIDE),
    "lu": Call(tw.lu, lambda: dict(a=spd(), tile_size=4), a="matrix", permute_l="flag", overwrite_a="flag",
               check_finite="flag", p_indices="flag", return_run="flag"),
    "lu_solve": Call(tw.lu_solve, lambda: dict(lu_and_piv=tw.lu_factor(spd()), b=np.ones(8)), lu_and_piv="data",
                     b="matrix", trans="natural", check_finite="flag", **ENGINE, return_run="flag"),
    "qr_graph": Call(tw.qr_graph, lambda: dict(mt=2, nt=2), mt="natural", nt="natural", tree="name", ranks="count",
                     shape="data+None", tile_size="count?", ib="count?", dtype="name"),
    "qr": Call(tw.qr, lambda: dict(a=spd(), tile_size=4), a="matrix", mode="name?", tree="name", positive="flag",
               out="name?", overwrite_out="name+zero",
               overwrite_a="flag", check_finite="flag", **ENGINE, return_run="flag",
               progress="flag~function~class", **IN_CORE),
    "qr_factor": Call(tw.qr_factor, lambda: dict(a=spd(), tile_size=4), a="matrix", tree="name", positive="flag",
                      overwrite_a="flag", check_finite="flag", **ENGINE, return_run="flag",
                      progress="flag~function~class", **IN_CORE),
    "lstsq": Call(tw.lstsq, lambda: dict(a=spd(), b=np.ones(8), tile_size=4), a="matrix", b="matrix", cond="real?",
                  lapack_driver="name", tree="name", check_finite="flag", **ENGINE,
                  return_run="flag", progress="flag~function~class"),
    "inv": Call(tw.inv, lambda: dict(a=spd(), tile_size=4), a="matrix", overwrite_a="flag", check_finite="flag",
                pivoting="name?", threshold="share?", **ENGINE, return_run="flag"),
    "det": Call(tw.det, lambda: dict(a=spd(), tile_size=4), a="matrix", overwrite_a="flag", check_finite="flag"),
    "slogdet": Call(tw.slogdet, lambda: dict(a=spd(), tile_size=4), a="matrix", overwrite_a="flag",
                    check_finite="flag"),
    "norm": Call(tw.norm, lambda: dict(a=spd(), tile_size=4), a="matrix", ord="name?+inf+negative", **ENGINE,
                 return_run="flag"),
    "cond": Call(tw.cond, lambda: dict(a=spd(), p=1), a="matrix", p="name?+inf+negative"),
    **{name: Call(call, lambda good=good: dict(good), **kinds, **ENGINE, return_run="flag", progress=PROGRESS)
       for name, call, good, kinds in (
           ("gemm", tw.gemm, dict(a=spd(), b=spd(), c=spd(), tile_size=4), dict(a="matrix", b="matrix", c="matrix?", alpha="scalar", beta="scalar", trans_a="name", trans_b="name", overwrite_c="flag")),
           ("syrk", tw.syrk, dict(a=spd(), c=spd(), tile_size=4), dict(a="matrix", c="matrix?", uplo="name", trans="name", alpha="scalar", beta="scalar", overwrite_c="flag")),
           ("herk", tw.herk, dict(a=spd(), c=spd(), tile_size=4), dict(a="matrix", c="matrix?", uplo="name", trans="name", alpha="factor", beta="factor", overwrite_c="flag")),
           ("trsm", tw.trsm, dict(a=spd(), b=spd(), tile_size=4), dict(a="matrix", b="matrix", **TRIANGLE)),
           ("trmm", tw.trmm, dict(a=spd(), b=spd(), tile_size=4), dict(a="matrix", b="matrix", **TRIANGLE)),
           ("lauum", tw.lauum, dict(a=spd(), tile_size=4), dict(a="matrix", uplo="name", overwrite_a="flag", check_finite="flag")),
           ("potri", tw.potri, dict(a=spd(), tile_size=4), dict(a="matrix", uplo="name", overwrite_a="flag", check_finite="flag")),
       )},
    "gemm_graph": Call(tw.gemm_graph, lambda: dict(mt=2, nt=2, kt=2), mt="natural", nt="natural", kt="natural", trans_a="name",
                       trans_b="name", alpha="scalar", beta="scalar"),
    "syrk_graph": Call(tw.syrk_graph, lambda: dict(nt=2, kt=2), nt="natural", kt="natural", uplo="name", trans="name",
                       hermitian="flag", alpha="scalar", beta="scalar"),
    **{name: Call(getattr(tw, name), lambda: dict(nt=2, beside=2), nt="natural", beside="natural", side="name", uplo="name",
                  trans="name", diag="name", alpha="scalar") for name in ("trsm_graph", "trmm_graph")},
    "lauum_graph": Call(tw.lauum_graph, lambda: dict(nt=2), nt="natural"),
    "potri_graph": Call(tw.potri_graph, lambda: dict(nt=2), nt="natural"),
    "lazy": Call(tw.lazy, lambda: dict(a=spd()), a="matrix+list", tile_size="count?"),
    "eigh": Call(tw.eigh, lambda: dict(a=spd(), tile_size=4, band=2), a="matrix", lower="flag", subset_by_index="counts?",
                 check_finite="flag", band="count?", **ENGINE, return_run="flag",
                 progress="flag~function~class"),
    "eigvalsh": Call(tw.eigvalsh, lambda: dict(a=spd(), tile_size=4, band=2), a="matrix", lower="flag",
                     subset_by_index="counts?", check_finite="flag", band="count?", **ENGINE,
                     return_run="flag", progress="flag~function~class"),
    "svd": Call(tw.svd, lambda: dict(a=spd(), tile_size=4), a="matrix", full_matrices="flag", check_finite="flag",
                **ENGINE, return_run="flag", progress="flag~function~class"),
    "svdvals": Call(tw.svdvals, lambda: dict(a=spd(), tile_size=4, band=2), a="matrix", check_finite="flag",
                    band="count?", **ENGINE, return_run="flag", progress="flag~function~class"),
    "polar": Call(tw.polar, lambda: dict(a=spd(), tile_size=4), a="matrix", side="name", check_finite="flag",
                  **ENGINE, return_run="flag", progress="flag~function~class"),
    "svd_lowrank": Call(tw.svd_lowrank, lambda: dict(a=spd(), k=2, tile_size=4), a="matrix", k="count",
                        power_iters="natural", oversample="natural", seed="natural", check_finite="flag",
                        **ENGINE, return_run="flag", progress="flag~function~class"),
    # -------------------------------------------------------------- operators
    "DenseOperator": Call(tw.DenseOperator, lambda: dict(A=spd(), backend="serial", ranks=2), A="matrix", layout="name",
                          ranks="count?", grid="counts?", backend="name?", overlap="flag", synchronous="flag",
                          copy="flag", check_finite="flag", pool="data+None", comm="data+None"),
    "SparseOperator": Call(tw.SparseOperator, lambda: dict(A=spd(), ranks=2, backend="serial"), A="matrix",
                           ranks="count?", partition="name", discovery="name", backend="name?", coordinates="counts?",
                           check_finite="flag", synchronous="flag", workers="count?", pool="data+None",
                           comm="data+None"),
    "matvec": Call(tw.matvec, lambda: dict(A=spd(), x=np.ones(8), backend="serial", ranks=2), A="matrix", x="matrix",
                   backend="name?", layout="name", ranks="count?", grid="counts?", overlap="flag",
                   check_finite="flag", synchronous="flag", pool="data+None", comm="data+None"),
    "cg": Call(tw.cg, lambda: dict(A=tw.SparseOperator(spd(), ranks=1, backend="serial"), b=np.ones(8), s=1), A="matrix",
               b="matrix", s="count", x0="counts?", rtol="real", atol="real", maxiter="natural?", basis="name",
               method="name"),
    # -------------------------------------------------------------- communication
    **{f"comm.{name}": collective(getattr(comm, name)) for name in
       ("allgather", "allreduce", "broadcast", "gather", "reduce", "reduce_scatter", "scatter")},
    "comm.matvec_graph": Call(comm.matvec_graph, lambda: dict(grid=(8, 8, 2, 1)), grid="counts", transposed="flag",
                              overlap="flag", dtype="name"),
    "comm.best": Call(comm.best, lambda: dict(operation="reduce", p=2, n=4), operation="name", p="count", n="natural",
                      machine="machine?"),
    "comm.cost": Call(comm.cost, lambda: dict(operation="reduce", p=2, n=4, machine=MACHINE), operation="name",
                      algorithm="name", p="count", n="natural", machine="machine"),
    "comm.lower_bound": Call(comm.lower_bound, lambda: dict(operation="reduce", p=2, n=4), operation="name", p="count",
                             n="natural"),
    "comm.terms": Call(comm.terms, lambda: dict(operation="reduce", algorithm="tree", p=2, n=4), operation="name",
                       algorithm="name", p="count", n="natural"),
    "comm.schedule": Call(comm.schedule, lambda: dict(operation="reduce", algorithm="tree", ranks=2, n=4),
                          operation="name", algorithm="name", ranks="count", n="natural"),
    "comm.efficiency": Call(comm.efficiency, lambda: dict(problem="dense", layout="rows", p=2, n=4, machine=MACHINE),
                            problem="name", layout="name", p="positive", n="positive", machine="machine"),
    "comm.weak_efficiency": Call(comm.weak_efficiency,
                                 lambda: dict(problem="dense", layout="rows", p=2, memory=4, machine=MACHINE),
                                 problem="name", layout="name", p="positive", memory="positive", machine="machine"),
    "comm.isoefficiency": Call(comm.isoefficiency,
                               lambda: dict(problem="dense", layout="rows", p=2, target=0.5, machine=MACHINE),
                               problem="name", layout="name", p="positive", target="count", machine="machine"),
    "comm.scaling_study": Call(comm.scaling_study, lambda: dict(layouts=["rows"], n=64, memory=64, p=2, most=1),
                               layouts="counts", machine="machine", n="count", memory="count", p="count", most="count",
                               simulated="flag", measured="counts+list", measured_n="count", computer="machine?"),
    "comm.domains.time": Call(comm.domains.time, lambda: dict(cut="slab", p=2, n=4, machine=MACHINE), cut="name",
                              p="positive", n="positive", machine="machine"),
    "comm.domains.efficiency": Call(comm.domains.efficiency, lambda: dict(cut="slab", p=2, n=4, machine=MACHINE),
                                    cut="name", p="positive", n="positive", machine="machine"),
    "comm.domains.block_time": Call(comm.domains.block_time,
                                    lambda: dict(b=2, steps=4, points=10, p=2, machine=MACHINE), b="positive",
                                    steps="real", points="real", p="positive", machine="machine"),
    "comm.domains.block_size": Call(comm.domains.block_size, lambda: dict(machine=MACHINE), machine="machine",
                                    flops="positive"),
    # -------------------------------------------------------------- others
    "read_graph": Call(tw.read_graph, lambda: dict(source=networkx.DiGraph([(0, 1)])), source="data", name="text?"),
    "mpi.Pool": Call(mpi.Pool, lambda: dict(ranks=1), {"ranks": "rank"}, ranks="count"),
    "plot.precision_map": Call(plot.precision_map, lambda: dict(map=tw.PrecisionMap([["fp32"]])), map="data",
                               path="data+None~nonsense~empty~bytes", title="text?"),
    "kernels.lookup": Call(kernels.lookup, lambda: dict(op="potrf", device="cpu", storage="float64",
                                                        accumulate="float64"),
                           op="name~nonsense~empty", device="name~nonsense~empty",
                           storage="name~nonsense~empty", accumulate="name~nonsense~empty",
                           source="name+empty~nonsense"),
    "kernels.use": Call(kernels.use, lambda: dict(name=None), {"name": "BLAS"}, name="name?"),
    "training.Cosine": Call(training.Cosine, lambda: dict(total=3), total="count"),
    "training.OneCycle": Call(training.OneCycle, lambda: dict(total=3), total="count", warm="share+zero"),
    "training.batch_size_for": Call(training.batch_size_for, lambda: dict(device="cpu"), device="name"),
    "training.GradientPenalty": Call(training.GradientPenalty, lambda: dict(weight=0.1), weight="positive", of="name",
                                     target="real"),
    "training.LossScaler": Call(training.LossScaler, lambda: dict(scale=1.5), scale="real", growth_factor="above one",
                                backoff_factor="share", growth_interval="count", growth_tracker="natural",
                                enabled="flag", hysteresis="count", min_scale="real", max_scale="positive+inf",
                                overflows="natural"),
    "training.scaling": Call(training.scaling, dict, gradient="signed", power="count", scaler="data+None"),
}  # fmt: skip

RECORDS = {
    "tilewright": {
        "AccuracyError", "AccuracyWarning", "CheckpointError", "Expression", "LUFactor", "MissingDataError", "NotPositiveDefiniteError", "QRFactor", "RankDied", "SchedulerError",
        "SingularMatrixError", "WorkerDied",
        "Bounds", "CriticalPath", "Message", "MessageRecord", "Plan", "Prepared", "Run", "SolveInfo", "Task", "TaskRecord",
        "Trace", "Access", "Handle",
    },
    "comm": set(), "plot": set(),
    "mpi": {"LaunchError"},
    "training": {"Comparison", "Event", "Result"},
    "kernels": {"Row"},
}  # fmt: skip
"""What the library makes and hands out: errors, records, values. Nobody calls these, and they check nothing."""

PROTOCOLS = {"Distribution", "Policy"}
ELSEWHERE = {
    "compute": "takes expressions, by position: tests/runtime/linalg/test_expression.py",
    "TiledMatrix": "made by empty, view and from_numpy; its constructor is theirs",
    "training.fit": "tests/runtime/training",
    "training.compare": "tests/runtime/training",
    "training.Fallback": "tests/runtime/training",
    "training.Learning": "tests/runtime/training",
    "training.Execution": "tests/runtime/training",
    "training.Recording": "tests/runtime/training",
    "training.Losses": "tests/runtime/training",
    "kernels.register": "its table is that of the process; tests/kernels",
    "training.formats": "takes nothing",
    "kernels.rows": "takes nothing",
    "kernels.available": "takes nothing",
    "kernels.current": "takes nothing",
}

CASES = [
    (name, parameter)
    for name, call in CALLS.items()
    for parameter in call.parameters()
    if parameter in inspect.signature(call.function).parameters
    or any(p.kind is p.VAR_KEYWORD for p in inspect.signature(call.function).parameters.values())
]


def test_every_public_name_is_tried():
    for module, where in (
        (tw, "tilewright"),
        (comm, "comm"),
        (mpi, "mpi"),
        (plot, "plot"),
        (training, "training"),
        (kernels, "kernels"),
    ):
        for name in module.__all__:
            thing = getattr(module, name)
            public = name if where == "tilewright" else f"{where}.{name}"
            if callable(thing) and name not in RECORDS[where] | PROTOCOLS and public not in ELSEWHERE:
                assert public in CALLS, f"{public} has no row in the table of calls"


@pytest.fixture(autouse=True)
def files_are_written_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", CALLS)
def test_every_parameter_is_tried_and_the_good_call_works(name):
    call = CALLS[name]
    parameters = inspect.signature(call.function).parameters.values()
    named = {p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
    assert named <= set(call.kinds), f"{name}: no kind for {named - set(call.kinds)}"
    call.function(**call.good())


class TooLong(BaseException):
    pass


@contextmanager
def limit(seconds):
    def end(*_):
        raise TooLong

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def fault(call, parameter, label):
    """What is wrong with what the call makes of a value; None if nothing is."""
    try:
        with limit(5), np.errstate(all="ignore"):
            call.function(**call.good() | {parameter: VALUES[label]})
    except (ValueError, TypeError, tw.MissingDataError) as error:
        names = f"{parameter}|{call.aliases.get(parameter, parameter)}"
        if re.search(rf"(?<![A-Za-z_])({names})(?![a-z_])", str(error), re.IGNORECASE):
            return f"refused, though it is allowed: {error}" if label in call.allowed(parameter) else None
        return f"{type(error).__name__}: {error}, which does not name it"
    except TooLong:
        return "takes more than 5 s"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None if label in call.allowed(parameter) | call.possible(parameter) else "accepted"


@pytest.mark.parametrize(("name", "parameter"), CASES, ids=[f"{name}-{parameter}" for name, parameter in CASES])
def test_a_wrong_value_is_refused_in_a_sentence_that_names_the_argument(name, parameter):
    call = CALLS[name]
    mine = call.kinds[parameter].partition("~")[2].split("~")
    faults = {
        label: found for label in VALUES if label not in mine and (found := fault(call, parameter, label)) is not None
    }
    assert not faults, "\n".join(f"{parameter}={VALUES[label]!r}: {found}" for label, found in faults.items())


PURE = ("comm.", "Machine", "BlockCyclic", "SymmetricBlockCyclic", "RowBlocks", "PrecisionMap", "training.", "lu_graph",
        "qr_graph", "cholesky_graph", "gemm_graph", "trsm_graph", "TiledMatrix", "qr", "lstsq", "plan", "random_spd",
        "MessagePlan", "bounds")  # fmt: skip
NUMBERS = [
    name for name, parameter in CASES
    if name.startswith(PURE) and CALLS[name]._words(parameter)[0] in ("count", "natural", "integer", "positive", "real", "share")
]  # fmt: skip


@pytest.mark.parametrize("name", dict.fromkeys(NUMBERS))
def test_numbers_of_numpy_mean_what_those_of_python_do(name):
    # 20 * 20 is -112 in int8, and 1e-9 is 0 in float16
    call = CALLS[name]
    for parameter in call.parameters():
        kind = call._words(parameter)[0]
        if kind not in ("count", "natural", "integer", "positive", "real", "share") or (name, parameter) not in CASES:
            continue
        counts = kind in ("count", "natural", "integer")
        for value, of in ((20, np.int8), (2, np.uint8), (0.5, np.float16)):
            if (counts and of is np.float16) or (parameter in ("workers", "most") and value > 2):
                continue
            try:
                wanted = call.function(**call.good() | {parameter: value})
            except (ValueError, TypeError, MemoryError):
                continue  # too many, of something
            found = call.function(**call.good() | {parameter: of(value)})
            assert shape_of(found) == shape_of(wanted), (parameter, value, of)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: tw.bounds(graph(), 2, lambda task: None), "a cost must be a number, not None"),
        (lambda: tw.bounds(graph(), 2, [-1.0]), "a cost must be at least 0, not -1.0"),
        (lambda: tw.simulate(graph(), owner=lambda handle: None), r"owner of x is None, not one of the ranks 0 to 0"),
        (lambda: tw.MessagePlan(graph(), 2, owner=lambda handle: 1.0), r"owner of y is 1.0, not one of the ranks"),
        (lambda: tw.MessagePlan(graph(), 2, owner=0, results=["x"]), "a handle of results is a Handle, not 'x'"),
        (lambda: tw.qr_graph(2, 2, tree=[1]), r"tree: an elimination is \(column, row, by, kind\), not 1"),
        (lambda: tw.compare_engines(graph(), {"x": (i for i in ())}, ["serial"]), "data cannot be copied for each run"),
        (lambda: tw.compare_engines(graph(), data(), [["serial"]]), "a name of engines must be a string"),
        (lambda: tw.compare_schedulers(graph(), workers=np.array(2)), "workers must be a number of workers or a list"),
        (lambda: tw.prepare(graph(), data(), inputs=np.array("x")), "inputs must be a list of handles or names"),
        (lambda: tw.lazy(None), "the matrix a is None"),
        (lambda: tw.gemm(np.array([["a"]]), spd()), "no kernel for dtype <U1; convert the matrix to one of"),
    ],
)  # fmt: skip
def test_what_a_value_contains_is_looked_at_too(call, sentence):
    with pytest.raises((ValueError, TypeError), match=sentence):
        call()


@pytest.mark.parametrize("memory", [np.int64(10**9), np.float32(1e9), "1 GB"], ids=lambda memory: type(memory).__name__)
def test_bytes_may_be_numbers_of_numpy(memory):
    assert np.allclose(tw.tiled_cholesky(spd(), tile_size=4, memory=memory), 2 * np.eye(8))


def shape_of(result):
    """What a result is, without where it lies in memory and how long it took."""
    if isinstance(result, tw.TaskGraph):
        return result.name, [str(task) for task in result.tasks]
    return re.sub(r"0x[0-9a-f]+|seconds=[^,)]*", "", repr(result))


NOUNS = {"R", "W", "RW", "TaskGraph", "Op", "Store", "TiledMatrix", "PrecisionMap.uniform", "cholesky_graph", "kernels"}
"""Short calls of graphs, and methods: Python's own sentence will do."""


@pytest.mark.parametrize("name", [name for name in CALLS if not {name, name.split(".")[0]} & NOUNS])
def test_an_unknown_keyword_is_refused_in_the_name_of_the_call_with_what_is_near(name):
    call = CALLS[name]
    known = [p.name for p in inspect.signature(call.function).parameters.values() if p.kind is not p.VAR_KEYWORD]
    word = max(known, key=len)
    with pytest.raises(TypeError, match=rf"^{call.function.__name__}: unknown option {word}s; did you mean {word}\?"):
        call.function(**call.good() | {f"{word}s": 1})


@pytest.mark.parametrize(
    ("name", "word", "sentence"),
    [
        (
            "tiled_cholesky",
            "ranks",
            "it takes workers=, how many tasks run at a time, on all ranks together; ranks= is how",
        ),
        ("run", "ranks", "it takes workers=, how many tasks"),
        ("solve", "p", "it takes workers=, how many tasks"),
        ("compare_schedulers", "ranks", "it takes workers=, how many tasks"),
        (
            "simulate",
            "workers",
            "it takes machine=, a Machine, which has workers and ranks; workers= is how many tasks",
        ),
        (
            "comm.allreduce",
            "workers",
            "it takes ranks=, how many processes hold the data, each a part of it; workers= is",
        ),
        ("comm.cost", "ranks", "it takes p=, the number of ranks in a formula; ranks= is how many processes"),
        ("comm.schedule", "p", "it takes ranks=, how many processes hold the data"),
        (
            "comm.allreduce",
            "method",
            "it takes algorithm=, which rounds a collective takes; method= is which iteration",
        ),
        ("matvec", "workers", "it takes ranks="),
        ("DenseOperator", "workers", "it takes ranks="),
        ("cg", "algorithm", "it takes method="),
    ],
)
def test_a_word_of_other_calls_is_refused_with_the_word_for_it_here_and_what_both_mean(name, word, sentence):
    call = CALLS[name]
    with pytest.raises(TypeError, match=f"^{call.function.__name__}: unknown option {word}; {sentence}"):
        call.function(**call.good() | {word: 1})


def test_fit_has_workers_and_says_so_of_ranks():
    with pytest.raises(TypeError, match="fit: unknown option ranks; it takes workers=, how many tasks run at a time"):
        training.fit(None, None, ranks=2)
