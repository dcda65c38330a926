"""Where stages compute: Ray, local or a cluster.

It knows no algorithm; only this package and akgp.sweep import Ray.
"""
