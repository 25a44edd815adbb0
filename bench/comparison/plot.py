"""Plots as SVG: time over size, and shares as bars."""
import math

from comparison.results import format_bytes, is_ours

FONT = 'font-family="DejaVu Sans, Helvetica, Arial, sans-serif" font-size="12"'


def svg_of(width, height, body):
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" {FONT}>\n'
            f'<rect width="100%" height="100%" fill="white"/>\n' + "\n".join(body) + "\n</svg>\n")


class LogPlot:
    """Lines on two logarithmic axes, as SVG."""

    WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 900, 560, 78, 190, 46, 58
    COLOURS = ("#0b6e4f", "#3fb37f", "#c0392b", "#e67e22", "#8e44ad", "#2c5aa0", "#5dade2", "#7f8c8d", "#b7950b",
               "#d35498", "#34495e", "#a04000")

    def __init__(self, title, x_values, y_values):
        self.x_low, self.x_high = math.log(min(x_values)), math.log(max(x_values) * 1.0001)
        self.y_low = math.floor(math.log10(min(y_values)))
        self.y_high = math.ceil(math.log10(max(y_values)))
        self.title, self.body, self.labels = title, [], []

    def x(self, value):
        share = (math.log(value) - self.x_low) / (self.x_high - self.x_low)
        return self.LEFT + share * (self.WIDTH - self.LEFT - self.RIGHT)

    def y(self, value):
        share = (math.log10(value) - self.y_low) / (self.y_high - self.y_low)
        return self.HEIGHT - self.BOTTOM - share * (self.HEIGHT - self.TOP - self.BOTTOM)

    def text(self, x, y, words, anchor="middle", extra=""):
        self.body.append(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {extra}>{words}</text>')

    def axes(self, ticks):
        right, bottom = self.WIDTH - self.RIGHT, self.HEIGHT - self.BOTTOM
        for decade in range(self.y_low, self.y_high + 1):
            y = self.y(10.0 ** decade)
            self.body.append(f'<line x1="{self.LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
            words = f"{10.0 ** decade:g} us" if decade < 3 else f"{10.0 ** (decade - 3):g} ms"
            self.text(self.LEFT - 8, y + 4, words, "end")
        for value in ticks:
            x = self.x(value)
            self.body.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{self.TOP}" y2="{bottom}" stroke="#eee"/>')
            self.text(x, bottom + 18, format_bytes(value).replace("iB", ""))
        self.text((self.LEFT + right) / 2, self.HEIGHT - 14, "bytes of the vector")
        self.text(self.LEFT, 26, self.title, "start", 'font-size="16" font-weight="bold"')

    def line(self, name, points, index, dashed=False, heavy=False):
        colour = "#999999" if dashed else self.COLOURS[index % len(self.COLOURS)]
        path = " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in points)
        style = f'stroke="{colour}" stroke-width="{3 if heavy else 1.5}"'
        if dashed:
            style += ' stroke-dasharray="5 4"'
        self.body.append(f'<polyline points="{path}" fill="none" {style}/>')
        if not dashed:
            radius = 3.5 if heavy else 2.2
            self.body += [f'<circle cx="{self.x(x):.1f}" cy="{self.y(y):.1f}" r="{radius}" fill="{colour}"/>'
                          for x, y in points]
        self.labels.append((self.y(points[-1][1]), name, colour, heavy))

    def place_labels(self):
        """Names at the line ends, pushed apart so that none covers another."""
        spacing, right = 15, self.WIDTH - self.RIGHT
        labels = sorted(self.labels)
        heights = [label[0] for label in labels]
        for i in range(1, len(heights)):
            heights[i] = max(heights[i], heights[i - 1] + spacing)
        overflow = max(0.0, heights[-1] - (self.HEIGHT - self.BOTTOM)) if heights else 0.0
        for i in range(len(heights) - 1, -1, -1):
            limit = heights[i] - overflow if i == len(heights) - 1 else min(heights[i], heights[i + 1] - spacing)
            heights[i] = limit
        for (line_y, name, colour, heavy), y in zip(labels, heights):
            self.body.append(f'<line x1="{right + 3}" x2="{right + 16}" y1="{line_y:.1f}" y2="{y:.1f}" '
                             f'stroke="{colour}" stroke-width="0.8"/>')
            weight = 'font-weight="bold"' if heavy else ""
            self.text(right + 20, y + 4, name, "start", f'fill="{colour}" {weight}')

    def svg(self):
        self.place_labels()
        return svg_of(self.WIDTH, self.HEIGHT, self.body)


def draw(sweep, results):
    """The plot of one sweep; None where it has a single size."""
    sizes = [size for size in results.sizes() if size > 0]
    if len(sizes) < 2:
        return None
    names = [program.name for program in sweep.programs]
    bounds = [(size, results.bound(size)) for size in sizes if results.bound(size)]
    times = [results.median(name, size) for name in names for size in sizes]
    plot = LogPlot(f"{sweep.title}, float32, fresh data: time (lower is better)", sizes,
                   [time for time in times if time] + [bound for _, bound in bounds])
    plot.axes(sizes)
    if len(bounds) > 1:
        plot.line("wire's limit" if results.wire_limit else "machine's limit", bounds, 0, dashed=True)
    for index, name in reversed(list(enumerate(names))):
        points = [(size, results.median(name, size)) for size in sizes if results.median(name, size)]
        if points:
            plot.line(name, points, index, heavy=is_ours(name))
    return plot.svg()


def draw_bars(title, groups, series, marks):
    """Grouped bars of shares, where 1 is the whole.

    groups: names along the axis; series: name -> share of each group, None where there is none; marks: what is
    required of each group, as a line across its bars.
    """
    width, height, left, top, bottom = 900, 420, 60, 74, 40
    colours = dict(zip(series, ("#0b6e4f", "#c0392b", "#2c5aa0")))
    slot, bar = (width - left - 20) / len(groups), (width - left - 20) / len(groups) * 0.7 / len(series)
    tallest = max([1.0] + [share for shares in series.values() for share in shares if share])

    def y(share):
        return height - bottom - share / tallest * (height - top - bottom)

    body = [f'<text x="{left}" y="26" font-size="16" font-weight="bold">{title}</text>']
    for tenth in range(0, int(tallest * 10) + 1, 2):
        line = f'y1="{y(tenth / 10):.1f}" y2="{y(tenth / 10):.1f}" stroke="{"#888" if tenth == 10 else "#ddd"}"'
        body += [f'<line x1="{left}" x2="{width - 20}" {line}/>',
                 f'<text x="{left - 8}" y="{y(tenth / 10) + 4:.1f}" text-anchor="end">{tenth * 10} %</text>']
    for number, (name, shares) in enumerate(series.items()):
        x = left + 150 * number
        body += [f'<rect x="{x}" y="40" width="12" height="12" fill="{colours[name]}"/>',
                 f'<text x="{x + 18}" y="50">{name}</text>']
        for group, share in enumerate(shares):
            if share is None:
                continue
            x = left + slot * (group + 0.15) + bar * number
            body += [f'<rect x="{x:.1f}" y="{y(share):.1f}" width="{bar * 0.92:.1f}" '
                     f'height="{y(0) - y(share):.1f}" fill="{colours[name]}"/>',
                     f'<text x="{x + bar * 0.46:.1f}" y="{y(share) - 5:.1f}" text-anchor="middle">'
                     f'{100 * share:.1f}</text>']
    for group, name in enumerate(groups):
        x = left + slot * group
        body.append(f'<text x="{x + slot / 2:.1f}" y="{height - 14}" text-anchor="middle">{name}</text>')
        if marks[group] is not None:
            body.append(f'<line x1="{x + slot * 0.1:.1f}" x2="{x + slot * 0.9:.1f}" y1="{y(marks[group]):.1f}" '
                        f'y2="{y(marks[group]):.1f}" stroke="#e67e22" stroke-width="2" stroke-dasharray="5 4"/>')
    x = left + 150 * len(series)
    body += [f'<line x1="{x}" x2="{x + 24}" y1="46" y2="46" stroke="#e67e22" stroke-width="2" stroke-dasharray="5 4"/>',
             f'<text x="{x + 30}" y="50">required of Lockstep</text>']
    return svg_of(width, height, body)
