"""Protection of credentials: redaction of text that people, logs and tables get."""
