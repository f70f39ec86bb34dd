"""`dsprune plan`: what a recipe would do and take, before a GPU is used."""
