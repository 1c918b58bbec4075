/* Tiled Cholesky as OpenMP tasks, with the dependences that their reads and writes imply. */

#include <omp.h>

#include "tasks.h"

static double nothing[2]; /* what an op that reads less stands as reading */

/* Run the tasks in order of insertion, on as many threads; 0, or 1 + the first task that failed. */
long tilewright_openmp(struct task *tasks, long count, int threads, const struct routines *use)
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
                if (!stop && run_task(task, use)) {
#pragma omp atomic write
                    failed = 1;
                }
                task->end = omp_get_wtime();
            }
        }
    }
    omp_pause_resource_all(omp_pause_hard); /* or its threads would stay */
    return outcome(tasks, count, began);
}
