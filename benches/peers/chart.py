"""A result as horizontal bars in SVG, readable on light and on dark pages."""

from xml.sax.saxutils import escape

WIDTH = 760
LABEL_WIDTH = 210
VALUE_WIDTH = 130
BAR_HEIGHT = 18
GROUP_GAP = 14
TOP = 76
STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #1f2328; }
  .title { font-size: 16px; font-weight: 600; }
  .small { font-size: 12px; fill: #57606a; }
  .lastmile { fill: #0b6e4f; }
  .peer { fill: #9a6700; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3; }
    .small { fill: #9198a1; }
    .lastmile { fill: #3fb68b; }
    .peer { fill: #d9a53f; }
  }
"""


def label(line: dict, settings: dict) -> str:
    """What a line of the summary measured, in words."""
    if line["kind"] == "prefill":
        return f"prompt of {settings['prefill']}"
    if line["kind"] == "long_context":
        return f"decode after {settings['long_context']}"
    streams = f"{line['streams']} stream" + ("s" if line["streams"] > 1 else "")
    return streams + (f", {line['busy']} busy" if line["busy"] else "")


def svg(result: dict) -> str:
    """A group of bars for each line of the summary, a bar for each server; tokens per second."""
    names = list(result["models"])
    classes = dict(zip(names, ("lastmile", "peer"), strict=False))
    scales = _scales(result)
    parts = [*_heading(result), *_legend(result, classes)]
    y = TOP
    for line in result["summary"]:
        middle = y + BAR_HEIGHT * len(names) / 2 + 5
        parts.append(_text(12, middle, label(line, result["settings"])))
        for name in names:
            value = line["servers"][name]["tokens_per_s"]
            length = value * scales[line["kind"]]
            parts.append(
                f'<rect class="{classes[name]}" x="{LABEL_WIDTH}" y="{y + 1}" rx="2" '
                f'width="{max(length, 1):.1f}" height="{BAR_HEIGHT - 2}"/>'
            )
            note = f"{value:.1f}"
            if name == "lastmile" and "tokens_per_s_ratio" in line:
                note += f"  ({line['tokens_per_s_ratio']:.2f} x)"
            parts.append(_text(LABEL_WIDTH + length + 6, y + BAR_HEIGHT - 5, note))
            y += BAR_HEIGHT
        y += GROUP_GAP
    body = "\n".join(parts)
    size = f'viewBox="0 0 {WIDTH} {y}" width="{WIDTH}" height="{y}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">\n'
        f"<style>{STYLE}</style>\n{body}\n</svg>\n"
    )


def _scales(result: dict) -> dict[str, float]:
    """Pixels of a token per second, for each kind of measurement: prompts are read much faster."""
    longest: dict[str, float] = {}
    for line in result["summary"]:
        values = [found["tokens_per_s"] for found in line["servers"].values()]
        longest[line["kind"]] = max(*values, longest.get(line["kind"], 0.0))
    return {kind: (WIDTH - LABEL_WIDTH - VALUE_WIDTH) / value for kind, value in longest.items()}


def _heading(result: dict) -> list[str]:
    facts = result["machine"]
    where = f"{facts['cpu']}, {facts['cores']} cores, {result['date'][:10]}"
    return [
        _text(12, 22, f"{result['name']}: tokens per second", "title"),
        _text(12, 42, f"{where}; medians of {result['settings']['rounds']} rounds", "small"),
    ]


def _legend(result: dict, classes: dict[str, str]) -> list[str]:
    parts = []
    x = 12
    for name, style in classes.items():
        text = f"{name}: {result['models'][name]['file']}"
        parts.append(f'<rect class="{style}" x="{x}" y="53" width="10" height="10" rx="2"/>')
        parts.append(_text(x + 16, 62, text, "small"))
        x += 340
    return parts


def _text(x: float, y: float, text: str, style: str = "") -> str:
    chosen = f' class="{style}"' if style else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{chosen}>{escape(text)}</text>'
