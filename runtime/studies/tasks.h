/* The four ops of tiled Cholesky as a task of C has them: what the baselines of openmp.c and starpu.c run.

   Tiles are row-major, so Fortran sees their transposes: L L^T = A is U^T U there, with U = L^T. */

#ifndef TILEWRIGHT_TASKS_H
#define TILEWRIGHT_TASKS_H

typedef void potrf_t(const char *uplo, const int *n, double *a, const int *lda, int *info);
typedef void trsm_t(const char *side, const char *uplo, const char *trans, const char *diag, const int *m, const int *n,
                    const double *alpha, const double *a, const int *lda, double *b, const int *ldb);
typedef void syrk_t(const char *uplo, const char *trans, const int *n, const int *k, const double *alpha,
                    const double *a, const int *lda, const double *beta, double *c, const int *ldc);
typedef void gemm_t(const char *transa, const char *transb, const int *m, const int *n, const int *k,
                    const double *alpha, const double *a, const int *lda, const double *b, const int *ldb,
                    const double *beta, double *c, const int *ldc);

struct routines {
    potrf_t *potrf;
    trsm_t *trsm;
    syrk_t *syrk;
    gemm_t *gemm;
};

/* studies/compiled.py has the same fields. c is written, of m x n; a and b are read, and have k columns, or are NULL.
   The tiles have numbers as well, tile_a and so on. */
struct task {
    int op, m, n, k, lda, ldb, ldc, info, thread, tile_a, tile_b, tile_c;
    double *a, *b, *c;
    double start, end;
};

enum { POTRF, TRSM, SYRK, GEMM };

/* Run it in the calling thread. Nonzero if it failed: then task->info says how. */
static int run_task(struct task *task, const struct routines *use)
{
    static const double one = 1.0, minus = -1.0;
    double *a = task->a, *b = task->b, *c = task->c;
    switch (task->op) {
    case POTRF:
        use->potrf("U", &task->n, c, &task->ldc, &task->info);
        break;
    case TRSM:
        use->trsm("L", "U", "T", "N", &task->n, &task->m, &one, a, &task->lda, c, &task->ldc);
        break;
    case SYRK:
        use->syrk("U", "T", &task->n, &task->k, &minus, a, &task->lda, &one, c, &task->ldc);
        break;
    default:
        use->gemm("T", "N", &task->n, &task->m, &task->k, &minus, b, &task->ldb, a, &task->lda, &one, c, &task->ldc);
    }
    return task->info != 0;
}

/* 0, or 1 + the number of the first task that failed; times are made to count from began. */
static long outcome(struct task *tasks, long count, double began)
{
    long failed = 0;
    for (long t = 0; t < count; t++) {
        tasks[t].start -= began;
        tasks[t].end -= began;
        if (tasks[t].info && !failed)
            failed = t + 1;
    }
    return failed;
}

#endif
