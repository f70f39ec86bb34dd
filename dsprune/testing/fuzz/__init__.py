"""Damaged and absurd inputs, and what commands make of them."""
