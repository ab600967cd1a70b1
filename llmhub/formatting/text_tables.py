"""Tables as text: aligned columns for a terminal, and Markdown.

Cells are strings that are formatted already. The first columns hold words and are left-aligned, all others hold
figures and are right-aligned.
"""

from __future__ import annotations

from collections.abc import Sequence

GAP = "  "
"""Between two columns."""


def text_table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    left_columns: int = 1,
    rule: bool = False,
    footer: Sequence[str] | None = None,
) -> str:
    """Return a table with aligned columns for a terminal.

    Parameters
    ----------
    header
        One heading per column.
    rows
        Cells, as many per row as there are headings.
    left_columns
        Number of columns, counted from the first, that are left-aligned.
    rule
        Draw a line of dashes below the header, and above the footer.
    footer
        A last row, such as totals.

    Examples
    --------
    >>> print(text_table(["model", "calls"], [["m", "1,000"]], rule=True))
    model  calls
    ------------
    m      1,000
    """
    cells = [header, *rows, *([footer] if footer is not None else [])]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [_align(row, widths, left_columns) for row in cells]
    if not rule:
        return "\n".join(lines)
    dashes = "-" * (sum(widths) + len(GAP) * (len(widths) - 1))
    body = lines[1 : 1 + len(rows)]
    return "\n".join([lines[0], dashes, *body, *([dashes, lines[-1]] if footer is not None else [])])


def _align(row: Sequence[str], widths: Sequence[int], left_columns: int) -> str:
    cells = [
        cell.ljust(width) if index < left_columns else cell.rjust(width)
        for index, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]
    return GAP.join(cells).rstrip()


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, left_columns: int = 1) -> str:
    r"""Return a Markdown table; a ``|`` within a cell is escaped.

    Examples
    --------
    >>> print(markdown_table(["model", "calls"], [["a|b", "1,000"]]))
    | model | calls |
    | --- | ---: |
    | a\|b | 1,000 |
    """
    alignment = ["---" if index < left_columns else "---:" for index in range(len(header))]
    body = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, alignment, *body))


def drop_empty_columns(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, keep: int = 1
) -> tuple[list[str], list[list[str]]]:
    """Return a table without the columns whose cells are all empty; the first ``keep`` columns always stay.

    Examples
    --------
    >>> drop_empty_columns(["model", "calls", "failed"], [["m", "1,000", ""]])
    (['model', 'calls'], [['m', '1,000']])
    """
    kept = [index for index in range(len(header)) if index < keep or any(row[index] for row in rows)]
    return [header[index] for index in kept], [[row[index] for index in kept] for row in rows]
