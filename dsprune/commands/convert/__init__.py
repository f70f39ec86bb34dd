"""`dsprune convert`: recipes of SparseML and settings of DeepSpeed's compression, as recipes of dsprune."""
