"""The expected loss increase of every site at every width."""
