"""Which weight of the teacher? Every strategy against every fixed weight, on real CIFAR-10 images.

`python -m experiments.weighting run` trains teachers and students (resumable, two at a time),
`… test` opens the test split, `… report` writes results/weighting. See docs/explanation/weighting.md.
"""
