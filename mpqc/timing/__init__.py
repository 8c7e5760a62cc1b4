"""Cost rows from the kernels themselves: priced by a tool under the emulator, or timed on a board."""
