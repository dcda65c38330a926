"""Running stages on Ray, local or a cluster.

No algorithm is here; only this package and akgp.sweep import Ray. `run` runs a stage, under `workspace_lock`:
as a Ray Train job (`train`), or its folds as Ray Tune trials (`cross_fit`, `tune`), within a `session`: on a
`local_ray` (`ray_folder`, `local_controller`) or a cluster (`cluster`, `capacity`).

On a worker: `worker`, `state_packing`, `failures`. A job is named by its `digest`, resumed from its
`checkpoints`, followed by `callbacks` and `progress`, and not recorded unless its parameters are `unchanged`.
"""
