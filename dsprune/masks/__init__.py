"""The masks of a rank's shards, in memory and on disk."""
