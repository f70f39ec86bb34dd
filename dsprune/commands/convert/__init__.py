"""`dsprune convert`: turn recipes of SparseML and settings of DeepSpeed's compression into recipes."""
