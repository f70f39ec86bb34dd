"""The passes over all weights of a rank: compiled C for CPU tensors, Triton for accelerators."""
