"""The progress room."""
