"""Charts as SVG inside a page: text is set in the page's font, colours are those of its light or dark theme."""

import io
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from autoseg.processes.library_output import redirect_library_messages

with redirect_library_messages():  # where fonts are not listed yet, it runs a program that complains about its cache
    import matplotlib as mpl
    from cycler import cycler
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure as Canvas
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

INK, FAINT = "#010203", "#010204"
SERIES: Final = tuple(f"#0102{10 + index:02d}" for index in range(8))
"""Placeholders, replaced by the colours of the page."""
MOST_POINTS: Final = 3000
"""Charts of more points show their distribution instead; each point takes about 60 bytes."""
MOST_EPOCHS: Final = 400  # more points of a curve are no longer told apart
WIDTH_INCHES: Final = 9.5
SETTINGS: Final[dict[str, Any]] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "autoseg",
    "text.parse_math": False,
    "font.size": 9,
    "savefig.facecolor": "none",
    "axes.facecolor": "none",
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": FAINT,
    "grid.linewidth": 0.5,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "axes.prop_cycle": cycler(color=SERIES),
}


def draw_strips(
    groups: Mapping[str, Sequence[float | int]],
    *,
    label: str,
    is_logarithmic: bool = False,
) -> str:
    """Draws one horizontal strip of points per group, with its median."""
    with mpl.rc_context(SETTINGS):
        figure, axes = _open(height=0.55 + 0.42 * len(groups))
        names = list(groups)
        is_many = sum(map(len, groups.values())) > MOST_POINTS
        for place, name in enumerate(names):
            _draw_strip(axes, np.asarray(groups[name], dtype=float), place, is_many=is_many)
        if is_logarithmic:
            _scale_by_powers(axes)
        axes.set_yticks(range(len(names)), [shorten(name) for name in names])
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_xlabel(label)
        axes.grid(axis="x")
        return _write(figure)


def _draw_strip(axes: Axes, values: np.ndarray, place: int, *, is_many: bool) -> None:
    values = values[np.isfinite(values)]
    if values.size == 0:
        return
    colour = SERIES[place % len(SERIES)]
    if is_many:
        low, high = np.percentile(values, [2.5, 97.5])
        axes.plot([low, high], [place, place], color=colour, linewidth=5, alpha=0.4, solid_capstyle="round")
    else:
        shift = np.random.default_rng(place).uniform(-0.28, 0.28, values.size)
        axes.plot(values, place + shift, ".", color=colour, markersize=5, alpha=0.65, markeredgewidth=0)
    axes.plot([np.median(values)] * 2, [place - 0.36, place + 0.36], color=INK, linewidth=1.4)


def _scale_by_powers(axes: Axes) -> None:
    """Makes the scale logarithmic, with plain numbers: exponents would be set in a notation of matplotlib's own."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def draw_intervals(groups: Mapping[str, Mapping[str, tuple[float, float | None, float | None]]], *, label: str) -> str:
    """Draws means with intervals: one row per group, in it one point per series."""
    with mpl.rc_context(SETTINGS):
        series = list(dict.fromkeys(name for rows in groups.values() for name in rows))
        height = 0.8 + (0.2 + 0.24 * len(series)) * len(groups)
        figure, axes = _open(height=height)
        for place, rows in enumerate(groups.values()):
            for name, (mean, lower, upper) in rows.items():
                index = series.index(name)
                y = place + (index - (len(series) - 1) / 2) * 0.6 / max(len(series), 1)
                colour = SERIES[index % len(SERIES)]
                if lower is not None and upper is not None:
                    axes.plot([lower, upper], [y, y], color=colour, linewidth=2.5, alpha=0.6)
                axes.plot([mean], [y], "o", color=colour, markersize=5, label=name if place == 0 else None)
        axes.set_yticks(range(len(groups)), [shorten(name) for name in groups])
        axes.set_ylim(len(groups) - 0.5, -0.5)
        axes.set_xlabel(label)
        axes.grid(axis="x")
        if len(series) > 1:
            axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4, borderaxespad=0.2)
        return _write(figure)


def draw_curves(panels: Mapping[str, Mapping[str, Sequence[float | None]]], *, label: str) -> str:
    """Draws curves over the epochs, one panel below the other; equal names have equal colours."""
    with mpl.rc_context(SETTINGS):
        figure = Canvas(figsize=(WIDTH_INCHES, 0.5 + 2.0 * len(panels)))
        all_axes = np.atleast_1d(figure.subplots(len(panels), 1, sharex=True))
        names = list(dict.fromkeys(name for curves in panels.values() for name in curves))
        for axes, (title, curves) in zip(all_axes, panels.items(), strict=True):
            for name, values in curves.items():
                numbers = np.array([np.nan if value is None else value for value in values], dtype=float)
                step = max(1, len(numbers) // MOST_EPOCHS)
                marker = "." if len(numbers) < 30 else ""
                colour = SERIES[names.index(name) % len(SERIES)]
                epochs = np.arange(1, len(numbers) + 1)
                axes.plot(epochs[::step], numbers[::step], marker=marker, color=colour, linewidth=1.3, label=name)
            axes.set_ylabel(title)
            axes.grid(axis="y")
        all_axes[0].legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=5, borderaxespad=0.2)
        all_axes[-1].set_xlabel(label)
        all_axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        return _write(figure)


def draw_ranges(rows: Mapping[str, tuple[float, float, float, float, float]], *, label: str) -> str:
    """Draws, for each row, a line from minimum to maximum, a bar between two percentiles, and the median."""
    with mpl.rc_context(SETTINGS):
        figure, axes = _open(height=0.55 + 0.42 * len(rows))
        for place, (least, low, median, high, most) in enumerate(rows.values()):
            colour = SERIES[place % len(SERIES)]
            axes.plot([least, most], [place, place], color=colour, linewidth=1)
            axes.plot([low, high], [place, place], color=colour, linewidth=7, alpha=0.5, solid_capstyle="butt")
            axes.plot([median] * 2, [place - 0.3, place + 0.3], color=INK, linewidth=1.4)
        axes.set_yticks(range(len(rows)), [shorten(name) for name in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlabel(label)
        axes.grid(axis="x")
        return _write(figure)


def shorten(name: str, most: int = 28) -> str:
    """Shortens a name that would take the place of the chart."""
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _open(*, height: float) -> tuple[Canvas, Axes]:
    figure = Canvas(figsize=(WIDTH_INCHES, height))
    return figure, figure.subplots()


def _write(figure: Canvas) -> str:
    """Writes the SVG element alone: without a date, sizes in pixels and names that would stand twice on a page."""
    stream = io.StringIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a name in letters that the font lacks; the page has others
        FigureCanvasSVG(figure).print_figure(
            stream,
            format="svg",
            bbox_inches="tight",
            metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
        )
    _, start, rest = stream.getvalue().partition("<svg ")
    svg = re.sub(r"<metadata>.*?</metadata>", "", f"{start}{rest}", flags=re.DOTALL)
    svg = re.sub(r'(<svg [^>]*?) width="[^"]*"', r"\1", re.sub(r'(<svg [^>]*?) height="[^"]*"', r"\1", svg))
    svg = re.sub(r' id="(?:figure|axes|patch|line2d|matplotlib\.axis|xtick|ytick|text|legend)_?\d*"', "", svg)
    svg = re.sub(r"font: [^;\"]*?(\d+(?:\.\d+)?)px[^;\"]*", r"font-size: \1px", svg)
    svg = svg.replace(INK, "var(--ink)").replace(FAINT, "var(--line)")
    for index, colour in enumerate(SERIES):
        svg = svg.replace(colour, f"var(--series-{index})")
    return svg.strip()
