"""Experiments behind the figures in docs/: not part of the library, of the pipeline or of the wheel."""
