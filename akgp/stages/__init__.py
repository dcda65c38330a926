"""The stages of the pipeline: each reads artifacts, calls the library and writes artifacts.

They import no Ray: akgp.orchestration runs them, and `dvc.yaml` holds the graph.
"""
