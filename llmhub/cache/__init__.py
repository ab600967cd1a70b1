"""Stores of answers: one record of functions, and what stands behind it."""
