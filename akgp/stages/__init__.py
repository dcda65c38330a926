"""The stages of the pipeline: each reads artifacts, calls the library and writes artifacts.

They import no Ray: akgp.orchestration runs them, and `dvc.yaml` holds the graph. `table` knows all of them:
`data`, `network_files`, `teacher`, `folds`, `prune`, `distill`, `quantize`, `evaluate`.

What several share: `inputs`, `teaching`, `normalization`, `training_steps`, `notices`, `source_code`.

Before anything computes: `network_check`, `module_names`, `dry_run`.

Of single stages: `pruning_evidence`, `pruning_schedule` and `recovery_cost` of prune, `qat` of quantize,
`target_rows` and `speed_gate` of evaluate. `sensitivity` is no stage, but reads what they write.
"""
