"""Deployment of a finished network.

`package` is the folder that is deployed: the model's file and its preprocessing, as the quantize stage writes
it. `predict` classifies images with it; `image_files` resolves the images that a command names. `release`
keeps the packages that were put into production, and has the gate that a new one must pass.
akgp.runtimes runs the files.
"""
