"""Running stages on Ray, local or a cluster.

No algorithm is here; only this package and akgp.sweep import Ray.
"""
