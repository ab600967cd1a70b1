"""Notebook and data frame integration: the ``.llm`` accessors, IPython magics, and the display of results."""
