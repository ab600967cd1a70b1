"""Progress displays of a run: a terminal line, a log, and a notebook widget."""
