"""Text for people: numbers, plain text, text tables and HTML. Pure, and imports nothing of llmhub."""
