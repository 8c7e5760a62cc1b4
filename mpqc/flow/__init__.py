"""The whole flow: it strings the rooms together, keeps checkpoints, and shows what came of it."""
