"""What a person or a machine sees of a run: progress now, logs, metrics and traces in their time."""
