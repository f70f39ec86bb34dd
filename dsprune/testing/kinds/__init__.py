"""Tiny data, tokenizers and models for every kind of task."""
