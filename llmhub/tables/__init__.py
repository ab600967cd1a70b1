"""Frames in, one Arrow table out."""
