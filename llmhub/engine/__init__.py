"""The only layer that awaits: one loop, one transport, and the chain around it."""
