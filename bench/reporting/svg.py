"""Inline SVG by hand: a drawing that escapes what it is given, and the colours, which are CSS classes so that a
page serves light and dark."""

from html import escape

DEVICE_CLASSES = 6  # CSS classes d0 to d5


class Drawing:
    """Grows downwards from (0, 0); lengths in CSS pixels at the drawing's own width."""

    def __init__(self, width, label):
        self.width, self.height, self.label, self.parts = width, 0, label, []

    def rect(self, x, y, width, height, css, title="", radius=0):
        tip = f"<title>{escape(title)}</title>" if title else ""
        self.parts.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0):.1f}" height="{height:.1f}" '
                          f'rx="{radius}" class="{css}">{tip}</rect>')
        self.height = max(self.height, y + height)

    def line(self, x1, y1, x2, y2, css):
        self.parts.append(f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{css}"/>')
        self.height = max(self.height, y1, y2)

    def circle(self, x, y, radius, css, title=""):
        tip = f"<title>{escape(title)}</title>" if title else ""
        self.parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" class="{css}">{tip}</circle>')
        self.height = max(self.height, y + radius)

    def area(self, points, base, css):
        """The area between a line and y = base."""
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in [(points[0][0], base), *points, (points[-1][0], base)])
        self.parts.append(f'<polygon points="{path}" class="{css}"/>')
        self.height = max(self.height, base)

    def text(self, x, y, words, css="", anchor="start"):
        self.parts.append(f'<text x="{x:.1f}" y="{y:.1f}" class="{css}" text-anchor="{anchor}">'
                          f"{escape(str(words))}</text>")
        self.height = max(self.height, y + 4)

    def __str__(self):
        return (f'<svg viewBox="0 0 {self.width} {self.height + 2:.0f}" role="img" '
                f'aria-label="{escape(self.label, quote=True)}">{"".join(self.parts)}</svg>')


def clip(words, length):
    """Names come from outside: long ones must not run through the plot."""
    return words if len(words) <= length else words[: length - 1] + "\u2026"


class DeviceColours:
    """The same colour for the same device on the whole page."""

    def __init__(self, cases, probed):
        names = [device.name for device in probed]
        names += [device.name for case in cases for run in case.runs for device in run.devices]
        self.names = list(dict.fromkeys(names))

    def css(self, name):
        return f"d{self.names.index(name) % DEVICE_CLASSES}" if name in self.names else "d0"
