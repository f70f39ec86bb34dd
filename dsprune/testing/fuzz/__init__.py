"""Damaged and invalid inputs for commands."""
