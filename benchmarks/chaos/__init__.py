"""The fault matrix: what happens to the pipeline when its parts are killed, cut off, filled up or damaged.

`make chaos` runs it on real processes and servers and writes results/chaos. See docs/explanation/chaos.md.
Needs Linux: processes are found in /proc.
"""
