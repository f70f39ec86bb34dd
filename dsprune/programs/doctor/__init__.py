"""`dsprune doctor`: what this machine can run."""
