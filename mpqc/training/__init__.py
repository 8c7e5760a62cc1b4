"""Training: quantizers with gradients, and the phase that trains a network while its bits are chosen."""
