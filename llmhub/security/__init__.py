"""Keeping secrets secret."""
