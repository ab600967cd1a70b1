"""Who speaks which wire, where, signed how: rows of data and small pure functions."""
