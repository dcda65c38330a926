"""An int8 network as C for microcontrollers: one file and its header, integers only, equal to the simulator.

`layers` fuses operations, `arena` lays out memory, `emission` writes each layer's constants and its call to a
kernel of `kernels`, `source` both files, `export` the folder; `emulator` counts instructions under QEMU.
"""
