"""`dsprune submit`: a recipe as jobs of a Slurm cluster."""
