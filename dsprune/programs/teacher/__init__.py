"""`dsprune teacher`: what a teacher says of the training data, computed once, kept on disk."""
