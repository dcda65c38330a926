"""Every route from a network to a runtime, beside other quantizers, on several networks: results/routes."""
