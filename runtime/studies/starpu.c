/* Tiled Cholesky as tasks of StarPU, which infers their dependences from the order of insertion. */

#include <starpu.h>
#include <stdlib.h>

#include "tasks.h"

static const struct routines *use;
static int failed;

static double now(void)
{
    return 1e-6 * starpu_timing_now();
}

static void body(void *buffers[], void *argument)
{
    struct task *task = argument;
    (void)buffers; /* they are the tiles of the task: there is one memory */
    task->thread = starpu_worker_get_id();
    task->start = now();
    if (!__atomic_load_n(&failed, __ATOMIC_RELAXED) && run_task(task, use))
        __atomic_store_n(&failed, 1, __ATOMIC_RELAXED);
    task->end = now();
}

#define CODELET(label, count, ...)                                                                                     \
    {                                                                                                                  \
        .cpu_funcs = {body}, .nbuffers = count, .modes = {__VA_ARGS__}, .name = label                                  \
    }

static struct starpu_codelet codelets[] = {
    CODELET("potrf", 1, STARPU_RW),
    CODELET("trsm", 2, STARPU_R, STARPU_RW),
    CODELET("syrk", 2, STARPU_R, STARPU_RW),
    CODELET("gemm", 3, STARPU_R, STARPU_R, STARPU_RW),
};

/* Start so many workers, which sleep until there are tasks. How many there are, or a negative number. */
int tilewright_starpu_begin(int workers)
{
    struct starpu_conf conf;
    starpu_conf_init(&conf);
    conf.ncpus = workers;
    conf.ncuda = conf.nopencl = 0;
    conf.catch_signals = 0;
    int failure = starpu_init(&conf);
    if (failure)
        return failure;
    starpu_pause();
    return (int)starpu_cpu_worker_get_count();
}

/* End them. */
void tilewright_starpu_end(void)
{
    starpu_resume();
    starpu_shutdown();
}

/* studies/starpu.py has the same fields. */
struct tile {
    double *data;
    int lead, rows, columns;
};

/* Run the tasks on these tiles; 0, or 1 + the first task that failed, or a negative number: StarPU refused one. */
long tilewright_starpu(struct task *tasks, long count, const struct tile *tiles, long many,
                       const struct routines *routines)
{
    starpu_data_handle_t *handles = calloc(many + 1, sizeof *handles);
    long refused = handles ? 0 : -1;
    if (refused)
        return refused;
    use = routines;
    failed = 0;
    for (long t = 0; t < many; t++)
        starpu_matrix_data_register(handles + t, STARPU_MAIN_RAM, (uintptr_t)tiles[t].data, tiles[t].lead,
                                    tiles[t].columns, tiles[t].rows, sizeof(double));
    starpu_resume();
    double began = now();
    for (long t = 0; t < count && !refused; t++) {
        struct starpu_task *job = starpu_task_create();
        int place = 0;
        job->cl = codelets + tasks[t].op;
        job->cl_arg = tasks + t;
        if (tasks[t].a)
            job->handles[place++] = handles[tasks[t].tile_a];
        if (tasks[t].b)
            job->handles[place++] = handles[tasks[t].tile_b];
        job->handles[place] = handles[tasks[t].tile_c];
        refused = starpu_task_submit(job);
    }
    starpu_task_wait_for_all();
    starpu_pause();
    for (long t = 0; t < many; t++)
        starpu_data_unregister(handles[t]);
    free(handles);
    return refused ? refused : outcome(tasks, count, began);
}
