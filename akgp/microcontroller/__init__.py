"""An int8 network as C for microcontrollers: one file and its header, integers only, equal to the simulator.

`layers` fuses operations, `arena` lays out memory, `emission` writes each layer's constants and its call
(`calls`, `weighted`, `constants`) to a kernel of `kernels`, `source` fills templates with both files
(`filling`), `export` the folder.

Before: `device` and `plan` say what a network needs. After: `host` checks the test vector on this machine,
`emulator` counts instructions under QEMU, `report` says what each layer takes.
"""
