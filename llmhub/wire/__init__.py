"""Wire formats, one a file, none importing another; each reads top to bottom in the same order."""
