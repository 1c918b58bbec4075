"""Dask: which cluster a call uses, and the two ways to run a graph there.

`resident`
    One long task per Dask worker runs its rank's part of the message plan with the threads engine's workers; tiles go
    from worker to worker. Dask launches and carries. Fast; a worker that dies ends the run.
`submitted`
    The coarsened graph goes to Dask's scheduler, one Dask task per group. Dask places, spills, and computes again what
    a lost worker had.

`client` has the kept cluster and the checks of a user's one; `remote` matrices whose tiles lie on workers;
`serializers` what Dask cannot serialise by itself. `rank`, `courier` and `group` run on the workers.
"""
