"""The compact form of a sparse model: masks and kept values on disk, the model in memory."""
