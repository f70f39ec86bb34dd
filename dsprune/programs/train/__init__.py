"""`dsprune train`: from a recipe to a run folder."""
