"""Runs that are killed at random moments, and what became of them."""
