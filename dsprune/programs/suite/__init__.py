"""`dsprune suite`: a grid of runs, methods by sparsities by seeds, one after the other."""
