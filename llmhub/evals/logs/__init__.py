"""Logs of other evaluation tools, read as results and written from results: one module a format.

`log_files` has the public functions, `log_rows` the rows that all formats have in common.
"""
