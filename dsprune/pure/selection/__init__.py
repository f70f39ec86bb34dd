"""What selection does on one rank; `dsprune.distributed.selection` puts the ranks together."""
