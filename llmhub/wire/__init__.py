"""Wires: how each provider API is encoded and decoded, one file an API, pure functions only."""
