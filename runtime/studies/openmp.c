/* The four ops of tiled Cholesky as OpenMP tasks, with the dependences that their reads and writes imply.

   Tiles are row-major, so Fortran sees their transposes: L L^T = A is U^T U there, with U = L^T. */

#include <omp.h>

typedef void potrf_t(const char *uplo, const int *n, double *a, const int *lda, int *info);
typedef void trsm_t(const char *side, const char *uplo, const char *trans, const char *diag, const int *m, const int *n,
                    const double *alpha, const double *a, const int *lda, double *b, const int *ldb);
typedef void syrk_t(const char *uplo, const char *trans, const int *n, const int *k, const double *alpha,
                    const double *a, const int *lda, const double *beta, double *c, const int *ldc);
typedef void gemm_t(const char *transa, const char *transb, const int *m, const int *n, const int *k,
                    const double *alpha, const double *a, const int *lda, const double *b, const int *ldb,
                    const double *beta, double *c, const int *ldc);

/* studies/openmp.py has the same fields. c is written, of m x n; a and b are read, and have k columns. */
struct task {
    int op, m, n, k, lda, ldb, ldc, info, thread;
    double *a, *b, *c;
    double start, end;
};

enum { POTRF, TRSM, SYRK, GEMM };

static const double one = 1.0, minus = -1.0;
static double nothing[2]; /* what an op that reads less stands as reading */

/* Run the tasks in order of insertion, on as many threads; 0, or 1 + the first task that failed. */
long tilewright_openmp(struct task *tasks, long count, int threads, potrf_t *potrf, trsm_t *trsm, syrk_t *syrk,
                       gemm_t *gemm)
{
    double began = 0;
    int failed = 0;
#pragma omp parallel num_threads(threads)
#pragma omp single
    {
        began = omp_get_wtime();
        for (long t = 0; t < count; t++) {
            struct task *task = tasks + t;
            double *a = task->a ? task->a : nothing, *b = task->b ? task->b : nothing + 1, *c = task->c;
#pragma omp task depend(in : a[0], b[0]) depend(inout : c[0]) firstprivate(task, a, b, c) shared(failed)
            {
                int stop;
#pragma omp atomic read
                stop = failed;
                task->thread = omp_get_thread_num();
                task->start = omp_get_wtime();
                if (!stop) {
                    switch (task->op) {
                    case POTRF:
                        potrf("U", &task->n, c, &task->ldc, &task->info);
                        break;
                    case TRSM:
                        trsm("L", "U", "T", "N", &task->n, &task->m, &one, a, &task->lda, c, &task->ldc);
                        break;
                    case SYRK:
                        syrk("U", "T", &task->n, &task->k, &minus, a, &task->lda, &one, c, &task->ldc);
                        break;
                    default:
                        gemm("T", "N", &task->n, &task->m, &task->k, &minus, b, &task->ldb, a, &task->lda, &one, c,
                             &task->ldc);
                    }
                    if (task->info) {
#pragma omp atomic write
                        failed = 1;
                    }
                }
                task->end = omp_get_wtime();
            }
        }
    }
    omp_pause_resource_all(omp_pause_hard); /* or its threads would stay */
    for (long t = 0; t < count; t++) {
        tasks[t].start -= began;
        tasks[t].end -= began;
    }
    for (long t = 0; t < count; t++)
        if (tasks[t].info)
            return t + 1;
    return 0;
}
