"""Where a run keeps its files and what it says while it runs: output folder, checkpoints, log, progress, versions, processes."""
