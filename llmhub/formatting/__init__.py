"""The formatting room."""
