/* ScaLAPACK's pdpotrf or pdgetrf, timed on request: mpirun -n P*Q factor routine n nb P Q logical folder
 *
 * Rank r reads lines from the pipe folder/r. For each, the ranks fill a matrix, for pdpotrf the lower triangle of a
 * symmetric positive definite one, and factor it, and rank 0 prints the seconds that this took on the slowest rank.
 * Between two lines all sleep, so that others can use the cores. When the pipes are closed rank 0 prints, for one vector
 * and in the 1-norm,
 *
 *   ||A x - L (L^T x)|| / (n ||A|| ||x|| u), or ||A x - b|| / (n ||A|| ||x|| u) with the x that pdgetrs finds
 *
 * of the last factor. MPI's own header is not needed: the BLACS do what talking there is.
 *
 * The driver also has what the preloaded BLAS may lack, and what ScaLAPACK leaves its user to tune:
 *   dsyrk_    by the dgemm of that BLAS, on halves of the triangle, as our tile kernel does
 *   pilaenv_  the logical block size of the PBLAS, 32 in the library
 */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

void Cblacs_pinfo(int *, int *);
void Cblacs_get(int, int, int *);
void Cblacs_gridinit(int *, const char *, int, int);
void Cblacs_gridinfo(int, int *, int *, int *, int *);
void Cblacs_barrier(int, const char *);
void Cblacs_gridexit(int);
void Cblacs_exit(int);
void Cdgamx2d(int, const char *, const char *, int, int, double *, int, int *, int *, int, int, int);
void Cdgsum2d(int, const char *, const char *, int, int, double *, int, int, int);
int numroc_(const int *, const int *, const int *, const int *, const int *);
void descinit_(int *, const int *, const int *, const int *, const int *, const int *, const int *, const int *,
               const int *, int *);
void pdpotrf_(const char *, const int *, double *, const int *, const int *, const int *, int *);
void pdgetrf_(const int *, const int *, double *, const int *, const int *, const int *, int *, int *);
void pdgetrs_(const char *, const int *, const int *, const double *, const int *, const int *, const int *,
              const int *, double *, const int *, const int *, const int *, int *);
void pdgemv_(const char *, const int *, const int *, const double *, const double *, const int *, const int *,
             const int *, const double *, const int *, const int *, const int *, const int *, const double *, double *,
             const int *, const int *, const int *, const int *);
void pdsymv_(const char *, const int *, const double *, const double *, const int *, const int *, const int *,
             const double *, const int *, const int *, const int *, const int *, const double *, double *, const int *,
             const int *, const int *, const int *);
void pdtrmv_(const char *, const char *, const char *, const int *, const double *, const int *, const int *,
             const int *, double *, const int *, const int *, const int *, const int *);
void dgemm_(const char *, const char *, const int *, const int *, const int *, const double *, const double *,
            const int *, const double *, const int *, const double *, double *, const int *);

static const int one = 1, zero = 0;
static int logical, general;

int pilaenv_(const int *context, const char *precision) {
    (void)context, (void)precision;
    return logical;
}

/* C := alpha A A^T + beta C (trans 'N') or alpha A^T A + beta C on one triangle of C. */
void dsyrk_(const char *uplo, const char *trans, const int *n, const int *k, const double *alpha, const double *a,
            const int *lda, const double *beta, double *c, const int *ldc) {
    enum { SMALL = 64 };
    const int plain = *trans == 'N' || *trans == 'n', lower = *uplo == 'L' || *uplo == 'l';
    const char *second = plain ? "T" : "N";
    if (*n <= SMALL) { /* through a full block, so that the other triangle stays as it is */
        double full[SMALL * SMALL];
        const double none = 0;
        const int ld = SMALL;
        dgemm_(plain ? "N" : "T", second, n, n, k, alpha, a, lda, a, lda, &none, full, &ld);
        for (int j = 0; j < *n; j++)
            for (int i = lower ? j : 0; i < (lower ? *n : j + 1); i++) {
                double *to = c + i + (int64_t)j * *ldc;
                *to = full[i + j * SMALL] + (*beta == 0 ? 0 : *beta * *to);
            }
        return;
    }
    const int h = (*n / 2 + SMALL - 1) / SMALL * SMALL, rest = *n - h;
    const double *below = a + (plain ? h : (int64_t)h * *lda);
    double *corner = c + h + (int64_t)h * *ldc;
    dsyrk_(uplo, trans, &h, k, alpha, a, lda, beta, c, ldc);
    if (lower)
        dgemm_(plain ? "N" : "T", second, &rest, &h, k, alpha, below, lda, a, lda, beta, c + h, ldc);
    else
        dgemm_(plain ? "N" : "T", second, &h, &rest, k, alpha, a, lda, below, lda, beta, c + (int64_t)h * *ldc, ldc);
    dsyrk_(uplo, trans, &rest, k, alpha, below, lda, beta, corner, ldc);
}

/* A number in (-1, 1) that depends on its place alone (the finaliser of splitmix64). */
static double noise(uint64_t i, uint64_t j) {
    uint64_t x = (i << 32 | j) + 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return (double)(int64_t)(x ^ x >> 31) * 0x1p-63;
}

/* Entry (i, j) of the matrix: noise, or, the same in both triangles, that and a diagonal that makes it definite. */
static double entry(int n, int i, int j) {
    if (general) return noise(i, j);
    return i == j ? sqrt(n) * 1.2 + 10 : noise(i > j ? i : j, i > j ? j : i) / 1.4142135623730951;
}

typedef struct { int context, n, nb, rows, columns, P, Q, p, q; } Layout;

static int global(int local, int nb, int p, int P) { return (local / nb * P + p) * nb + local % nb; }

static void fill(double *a, const Layout *at) {
    for (int j = 0; j < at->columns; j++)
        for (int i = 0, J = global(j, at->nb, at->q, at->Q); i < at->rows; i++)
            a[i + (int64_t)j * at->rows] = entry(at->n, global(i, at->nb, at->p, at->P), J);
}

static double largest(const Layout *at, double x) {
    int unused;
    Cdgamx2d(at->context, "All", " ", 1, 1, &x, 1, &unused, &unused, -1, -1, 0);
    return x;
}

static double total(const Layout *at, double x) {
    Cdgsum2d(at->context, "All", " ", 1, 1, &x, 1, -1, 0);
    return x;
}

static double norm(const Layout *at) {
    double most = 0;
    for (int j = 0; j < at->columns; j++) {
        double sum = 0;
        const int J = global(j, at->nb, at->q, at->Q);
        for (int i = 0; i < at->n; i++) sum += fabs(entry(at->n, i, J));
        most = fmax(most, sum);
    }
    return largest(at, most);
}

static double ratio(const double *factor, const int *pivots, const int *desc, const Layout *at) {
    const double plus = 1, minus = -1;
    const int n = at->n, mine = at->q == 0 ? at->rows : 0, ld = at->rows > 0 ? at->rows : 1;
    int desc_x[9], info;
    double *a = malloc(sizeof(double) * ((size_t)at->rows * at->columns + 1));
    double *x = calloc(ld, sizeof(double)), *y = calloc(ld, sizeof(double)), size = 0, error = 0;
    descinit_(desc_x, &n, &one, &at->nb, &at->nb, &zero, &zero, &at->context, &ld, &info);
    for (int i = 0; i < mine; i++) x[i] = y[i] = noise(global(i, at->nb, at->p, at->P), n);
    fill(a, at);
    if (general) { /* y = A x - b */
        pdgetrs_("N", &n, &one, factor, &one, &one, desc, pivots, x, &one, &one, desc_x, &info);
        pdgemv_("N", &n, &n, &plus, a, &one, &one, desc, x, &one, &one, desc_x, &one, &minus, y, &one, &one, desc_x,
                &one);
    } else { /* y = A x - L (L^T x) */
        pdtrmv_("L", "T", "N", &n, factor, &one, &one, desc, y, &one, &one, desc_x, &one);
        pdtrmv_("L", "N", "N", &n, factor, &one, &one, desc, y, &one, &one, desc_x, &one);
        pdsymv_("L", &n, &plus, a, &one, &one, desc, x, &one, &one, desc_x, &one, &minus, y, &one, &one, desc_x, &one);
    }
    for (int i = 0; i < mine; i++) size += fabs(x[i]);
    for (int i = 0; i < mine; i++) error += fabs(y[i]);
    free(a), free(x), free(y);
    return total(at, error) / (n * norm(at) * total(at, size) * 0x1p-53);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec;
}

int main(int argc, char **argv) {
    int rank, size, info = 0, desc[9];
    Layout at;
    Cblacs_pinfo(&rank, &size);
    general = argc == 8 && !strcmp(argv[1], "pdgetrf");
    if (argc != 8 || !(general || !strcmp(argv[1], "pdpotrf"))) {
        fprintf(stderr, "usage: factor pdpotrf|pdgetrf n nb P Q logical folder\n");
        return 2;
    }
    at.n = atoi(argv[2]), at.nb = atoi(argv[3]), at.P = atoi(argv[4]), at.Q = atoi(argv[5]), logical = atoi(argv[6]);
    Cblacs_get(-1, 0, &at.context);
    Cblacs_gridinit(&at.context, "Row", at.P, at.Q);
    Cblacs_gridinfo(at.context, &at.P, &at.Q, &at.p, &at.q);
    at.rows = numroc_(&at.n, &at.nb, &at.p, &zero, &at.P);
    at.columns = numroc_(&at.n, &at.nb, &at.q, &zero, &at.Q);
    const int ld = at.rows > 0 ? at.rows : 1;
    descinit_(desc, &at.n, &at.n, &at.nb, &at.nb, &zero, &zero, &at.context, &ld, &info);
    double *a = malloc(sizeof(double) * ((size_t)at.rows * at.columns + 1));
    int *pivots = malloc(sizeof(int) * (at.rows + at.nb));
    char path[4096], line[64];
    snprintf(path, sizeof path, "%s/%d", argv[7], rank);
    FILE *pipe = fopen(path, "r");
    if (!pipe || !a || !pivots) {
        fprintf(stderr, pipe ? "no memory\n" : "cannot read %s\n", path);
        return 2;
    }
    while (fgets(line, sizeof line, pipe)) {
        fill(a, &at);
        Cblacs_barrier(at.context, "All");
        const double start = now();
        if (general)
            pdgetrf_(&at.n, &at.n, a, &one, &one, desc, pivots, &info);
        else
            pdpotrf_("L", &at.n, a, &one, &one, desc, &info);
        const double seconds = largest(&at, now() - start);
        if (rank == 0) printf("seconds %.9f info %d\n", seconds, info), fflush(stdout);
    }
    const double error = ratio(a, pivots, desc, &at);
    if (rank == 0) printf("ratio %.6g\n", error), fflush(stdout);
    free(a), free(pivots);
    fclose(pipe);
    Cblacs_gridexit(at.context);
    Cblacs_exit(0);
    return 0;
}
