"""`dsprune analyze`: what pruning each component of a model buys, and what it costs."""
