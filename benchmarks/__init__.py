"""Measurements of the whole program: faults, overhead, threads, scaling of sweeps."""
