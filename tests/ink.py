"""What tests of figures look at: every piece of text and the box that it fills."""

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text


def texts_of(figure):
    """(text, box in pixels) of everything written, after the layout has been made."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()
    written = [t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip()]
    sides = [(ax, side) for ax in figure.axes for side in (ax.xaxis, ax.yaxis)]
    ticks = {id(tick.label1) for _, side in sides for tick in side.get_major_ticks()}
    # Ticks beyond an axis' limits, or of an axis switched off, exist as objects but are never drawn.
    drawn = {id(tick.label1) for ax, side in sides if ax.axison for tick in side._update_ticks()}
    return [(t, t.get_window_extent(renderer)) for t in written if id(t) not in ticks or id(t) in drawn]


def overlap(a, b):
    """Pixels by which two boxes overlap in their narrower direction."""
    return min(min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0))
