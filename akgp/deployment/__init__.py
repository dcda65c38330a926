"""Deployment of a finished network.

`package` is the folder that is deployed: the model's file and its preprocessing, as the quantize stage writes
it. `predict` classifies images with it; `image_files` and `model_files` resolve what a command names;
`download` is the same file in fewer bytes. `release` keeps the packages that were put into production, and
has the gate that a new one must pass. akgp.runtimes runs the files.

`targets` writes the network for other runtimes; `agreement` and `measurement` say how exact and fast it is
there.

Time and size before a network is finished: `timing_twin` is its file without calibration, `shortest` and
`bench` time files, `kernel_table` and `width_times` predict by widths, `file_measures` measures for mixed
precision, `speed` says which layers int8 made slower.
"""
