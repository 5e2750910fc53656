"""Tables that read well as they are, and in a browser."""

from __future__ import annotations

from collections.abc import Sequence


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """A Markdown table with padded cells and a line end.

    Args:
        headings: Of the columns.
        rows: A cell for each column.
        left: How many columns are text; the others are figures and end flush.
    """
    lines = [list(headings), *map(list, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(headings))]
    rule = [_rule(width, i < left) for i, width in enumerate(widths)]
    padded = [[_pad(line[i], widths[i], i < left) for i in range(len(line))] for line in lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in (padded[0], rule, *padded[1:]))


def _pad(cell: str, width: int, is_left: bool) -> str:
    return cell.ljust(width) if is_left else cell.rjust(width)


def _rule(width: int, is_left: bool) -> str:
    return "-" * width if is_left else "-" * (width - 1) + ":"
