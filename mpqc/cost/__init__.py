"""What a network costs on a target: microseconds, bytes, bit operations, nanojoules."""
