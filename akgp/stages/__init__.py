"""The stages of the pipeline: each reads artifacts, calls the library and writes artifacts.

They know no Ray; where they compute is akgp.orchestration's matter, and `dvc.yaml` holds the graph.
"""
