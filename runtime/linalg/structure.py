"""What iterations ask of a matrix and its factor, by the structure of the matrix: products with A and substitutions.

`Positive` is for Hermitian positive definite matrices with a Cholesky factor, `General` for any other with an LU
factor. Both insert tasks into the graphs of `classical`, `conjugate_gradients`, `gmres` and `nested`, which are the
same for all.
"""

from __future__ import annotations

from dataclasses import dataclass

from tilewright.graph import RW, Handles, R, TaskGraph, W
from tilewright.linalg.cho_solve import substitute_back, substitute_forward
from tilewright.ops import OPS, gemml, gemmlb, gemmp, hemm, hemmd, trsml, zero

__all__ = ["General", "Positive", "Structure"]


@dataclass(frozen=True)
class Structure:
    """What is known of a matrix ``A``, its factor, and the scaling D A E of what was factored."""

    columns: str = "D"
    """The family of the scaling from the right, E."""

    def product(self, g: TaskGraph, X: Handles, V: Handles, nt: int) -> None:
        """Insert V := A X."""
        raise NotImplementedError

    def substitute(self, g: TaskGraph, X: Handles, nt: int) -> None:
        """Insert X := (D A E)^-1 X by the factor, in its precision."""
        raise NotImplementedError


@dataclass(frozen=True)
class Positive(Structure):
    """Hermitian: the lower triangle of A is read, once for each product. L L^H is D A D.

    With ``narrow`` the tiles of L below the diagonal are read in BF16, from N.
    """

    narrow: bool = False

    def product(self, g: TaskGraph, X: Handles, V: Handles, nt: int) -> None:
        """Insert V := A X; F[i] are the `blocks` of tile (i, i).

        Tiles are taken diagonal by diagonal, so that neighbours write different blocks of V.
        """
        A, F = g.handles("A"), g.handles("F")
        for i in range(nt):
            g.insert(zero, W(V[i]))
            g.insert(hemmd, R(A[i, i]), R(F[i, i]), R(X[i]), RW(V[i]), on=A[i, i])  # V_i := V_i + A_ii X_i
        for distance in range(1, nt):
            for j in range(nt - distance):
                i = j + distance  # V_i := V_i + A_ij X_j, V_j := V_j + A_ij^H X_i
                g.insert(hemm, R(A[i, j]), R(X[i]), R(X[j]), RW(V[i]), RW(V[j]), on=A[i, j])

    def substitute(self, g: TaskGraph, X: Handles, nt: int) -> None:
        """Insert X := L^-H L^-1 X."""
        below = (gemmlb, g.handles("N")) if self.narrow else None
        substitute_forward(g, g.handles("L"), X, nt, below=below)
        substitute_back(g, g.handles("L"), X, nt, below=below)


@dataclass(frozen=True)
class General(Structure):
    """Any square matrix, all of which is read. P D A E is L U with pivots ``piv[k]``; L[i,j] is tile (i, j) transposed.

    A factor by columns is, transposed, one by rows, as right-hand sides are: real numbers alone, then.
    """

    columns: str = "E"

    def product(self, g: TaskGraph, X: Handles, V: Handles, nt: int) -> None:
        """Insert V := A X."""
        A = g.handles("A")
        for i in range(nt):
            g.insert(zero, W(V[i]))
        for distance in range(nt):  # neighbours write different blocks of V
            for i in range(nt):
                j = (i + distance) % nt
                g.insert(gemmp, R(A[i, j]), R(X[j]), RW(V[i]), on=A[i, j])  # V_i := V_i + A_ij X_j

    def substitute(self, g: TaskGraph, X: Handles, nt: int) -> None:
        """Insert X := U^-1 L^-1 P X."""
        T, piv = g.handles("L"), g.handles("piv")
        g.insert(OPS["exchange"], [R(piv[k]) for k in range(nt)], [RW(X[i]) for i in range(nt)])  # X := P X
        for k in range(nt):
            g.insert(trsml, R(T[k, k]), RW(X[k]), True, False, True, on=T[k, k])  # X_k := L_kk^-1 X_k
            for i in range(k + 1, nt):
                g.insert(gemml, R(T[i, k]), R(X[k]), RW(X[i]), True, on=T[i, k])  # X_i := X_i - L_ik X_k
        for k in reversed(range(nt)):
            g.insert(trsml, R(T[k, k]), RW(X[k]), True, True, on=T[k, k])  # X_k := U_kk^-1 X_k
            for i in reversed(range(k)):
                g.insert(gemml, R(T[i, k]), R(X[k]), RW(X[i]), True, on=T[i, k])  # X_i := X_i - U_ik X_k
