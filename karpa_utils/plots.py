"""One style for all figures, and tables that read well on the page and in a terminal."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from html import escape

import matplotlib as mpl
from cycler import cycler

# Distinct in color-blind vision and at least 3:1 against white; the first is the book's accent.
PALETTE = {
    "teal": "#0a6e6a",
    "rust": "#c2540a",
    "indigo": "#5a5fb0",
    "ochre": "#9a7400",
    "raspberry": "#b03a6e",
    "gray": "#6b7478",
}


def use_style() -> None:
    """Set matplotlib's defaults: readable when small, direct, on paper white in both themes."""
    mpl.rcParams.update(
        {
            "axes.prop_cycle": cycler(color=list(PALETTE.values())),
            "figure.figsize": (7.0, 3.4),  # inches
            "figure.dpi": 100,
            "savefig.dpi": 100,
            "figure.constrained_layout.use": True,
            "figure.facecolor": "white",
            "font.size": 11,
            "axes.titlesize": 11,
            "axes.titleweight": "bold",
            "axes.titlelocation": "left",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.color": "#e4e7ec",
            "axes.axisbelow": True,
            "lines.linewidth": 1.8,
            "legend.frameon": False,
            "image.cmap": "gray",
        }
    )


def in_notebook() -> bool:
    """Return True in a Jupyter kernel (also on Colab), False in a script or a terminal."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")


def label_lines(ax: mpl.axes.Axes, *, pad: float = 6.0) -> None:
    """Write each line's label at its right end instead of in a legend.

    pad: distance from the last point, in points. Labels that would overlap are moved apart.
    """
    ax.figure.canvas.draw()  # fixes the scales
    lines = [line for line in ax.get_lines() if not line.get_label().startswith("_")]
    ends = [(line.get_xdata()[-1], line.get_ydata()[-1]) for line in lines]
    heights = [ax.transData.transform(end)[1] * 72 / ax.figure.dpi for end in ends]  # in points
    spacing, lowest = 1.2 * mpl.rcParams["font.size"], -float("inf")
    for height, end, line in sorted(zip(heights, ends, lines, strict=True), key=lambda t: t[0]):
        lowest = max(height, lowest + spacing)
        ax.annotate(
            line.get_label(),
            xy=end,
            xytext=(pad, lowest - height),
            textcoords="offset points",
            color=line.get_color(),
            va="center",
            annotation_clip=False,
        )


def image_row(axes: Sequence[mpl.axes.Axes], images: Sequence, titles: Sequence[str]) -> None:
    """Draw each image, (H, W) or (C, H, W) in [0, 1], on its own axis with a title, no ticks."""
    for ax, image, title in zip(axes, images, titles, strict=True):
        if image.ndim == 3:
            image = image[0] if len(image) == 1 else image.permute(1, 2, 0)
        ax.imshow(image, vmin=0, vmax=1)
        ax.set_title(title, loc="center", fontweight="normal")
        ax.set_axis_off()


def table(columns: Mapping[str, Sequence], caption: str = "") -> None:
    """Show a table: HTML in a notebook, aligned text in a terminal.

    columns: header -> cells, already rounded to what is stable (strings are shown as they are).
        The header is also the label under which a cell's metadata may declare a tolerance.
    """
    rows = [[str(cell) for cell in row] for row in zip(*columns.values(), strict=True)]
    if not in_notebook():
        widths = [max(map(len, col)) for col in zip(columns, *rows, strict=True)]
        for row in (list(columns), *rows):
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)))
        return
    from IPython.display import HTML, display

    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in columns)
    body = "\n".join(
        f'<tr><th scope="row">{escape(first)}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in rest)
        + "</tr>"
        for first, *rest in rows
    )
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    display(
        HTML(
            f'<table class="karpa-table">{title}\n<thead><tr>{head}</tr></thead>\n'
            f"<tbody>\n{body}\n</tbody></table>"
        )
    )
