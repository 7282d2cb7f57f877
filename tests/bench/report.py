"""Tables and curves of what vs_llama_cpp.py measured.

The JSON: {"machine", "threads", "date", "target", "sides": [{"name", "version"}], "results": [...]}; the first side is
Blade. A result is a point: {"model", "weights", "point": "prefill TOKENS" | "decode BATCH CONTEXT", "tokens" (of a run,
or of a step), "operations", "bytes" (of decode), "rounds": [{side: seconds, ..., "limits": {"read_bytes_per_second",
"peak_operations_per_second"}}]}.
"""
import math
import statistics


def middle(values):
    return statistics.median(values)


def speed(result, side):
    """Tokens per second."""
    return result["tokens"] / middle(r[side] for r in result["rounds"])


def ratio(result, peer):
    """How many times faster Blade was, round by round."""
    return middle(r[peer] / r["Blade"] for r in result["rounds"])


def share(result):
    """Of the limit, of Blade."""
    def least(limits):
        return max(result["operations"] / limits["peak_operations_per_second"],
                   result.get("bytes", 0) / limits["read_bytes_per_second"])
    return middle(least(r["limits"]) / r["Blade"] for r in result["rounds"])


def groups(data):
    """((model, weights), its results), in the order of measurement."""
    found = {}
    for r in data["results"]:
        found.setdefault((r["model"], r["weights"]), []).append(r)
    return found.items()


def numbers(result):
    """("prefill", TOKENS) or ("decode", BATCH, CONTEXT)."""
    kind, *rest = result["point"].split()
    return kind, *map(int, rest)


# ---- Markdown ------------------------------------------------------------------------------------------------------


def cells(result, peers):
    times = [f"{ratio(result, p):.2f}" for p in peers]
    return [f"{speed(result, 'Blade'):.0f}", f"{100 * share(result):.0f} %", *times]


def table(title, columns, rows):
    lines = [f"| {title} | " + " | ".join(columns) + " |", "|---|" + "---|" * len(columns)]
    return lines + [f"| {name} | " + " | ".join(row) + " |" for name, row in rows]


def group_tables(model, weights, results, peers):
    names = ["tokens/s", "of limit", *(f"× {p}" for p in peers)]
    prefill = [r for r in results if numbers(r)[0] == "prefill"]
    decode = {numbers(r)[1:]: r for r in results if numbers(r)[0] == "decode"}
    lines = [f"**{model}, {weights}**", ""]
    if prefill:
        lines += table("prefill", names, [(str(numbers(r)[1]), cells(r, peers)) for r in prefill]) + [""]
    if decode:
        batches, contexts = (sorted({key[i] for key in decode}) for i in (0, 1))
        columns = [f"{c} tokens: {n}" if n == names[0] else n for c in contexts for n in names]
        empty = ["-"] * len(names)
        rows = [(str(b), sum((cells(decode[b, c], peers) if (b, c) in decode else empty for c in contexts), []))
                for b in batches]
        lines += table("decode, batch", columns, rows) + [""]
    return lines


def markdown(data):
    sides = [s["name"] for s in data["sides"]]
    versions = "; ".join(f"{s['name']}: {s['version']}" for s in data["sides"])
    target = f", Blade's code for {data['target']}" if data["target"] else ""
    lines = [f"{data['machine']}, {data['threads']} threads{target}, {data['date']}. {versions}.",
             "Medians of rounds in turn; × is how many times faster Blade was.", ""]
    lowest = []
    for (model, weights), results in groups(data):
        lines += group_tables(model, weights, results, sides[1:])
        lowest += [(ratio(r, p), f"{model}, {weights}, {r['point']}, {p}") for r in results for p in sides[1:]]
    if lowest:
        value, where = min(lowest)
        lines += [f"The lowest ratio is {value:.2f}: {where}.", ""]
    return "\n".join(lines)


# ---- SVG -----------------------------------------------------------------------------------------------------------

PALETTE = ["#0072b2", "#d55e00", "#009e73", "#cc79a7"]
WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 300, 220, 52, 34, 12, 40


def text(x, y, words, anchor="middle", size=11, extra=""):
    words = words.replace("&", "&amp;").replace("<", "&lt;")
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}"{extra}>{words}</text>'


def frame(x, y, title, x_label, ticks, lo, hi):
    """A panel's title and axes; speeds go up on a logarithmic scale. Returns the elements and x and y of a point."""
    places = {t: x + LEFT + (WIDTH - LEFT - RIGHT) * (i + 0.5) / len(ticks) for i, t in enumerate(ticks)}
    base = y + HEIGHT - BOTTOM

    def up(v):
        return base - (base - y - TOP) * math.log(v / lo) / math.log(hi / lo)

    out = [text(x + WIDTH / 2, y + 18, title, size=13), text(x + WIDTH / 2, y + HEIGHT - 6, x_label)]
    for v in (m * 10 ** e for e in range(0, 5) for m in (1, 2, 5)):
        if lo <= v <= hi:
            out.append(f'<path d="M{x + LEFT} {up(v):.1f}H{x + WIDTH - RIGHT}" stroke="#ddd"/>')
            out.append(text(x + LEFT - 6, up(v) + 4, str(v), "end"))
    out += [text(px, base + 16, str(t)) for t, px in places.items()]
    return out, places, up


def panel(x, y, title, x_label, points, sides, lo, hi):
    """points: [(tick, result)]."""
    out, places, up = frame(x, y, title, x_label, [t for t, _ in points], lo, hi)
    curves = [(s, PALETTE[i % len(PALETTE)], "", [speed(r, s) for _, r in points]) for i, s in enumerate(sides)]
    curves.append(("limit", "#555", ' stroke-dasharray="4 3"', [speed(r, "Blade") / share(r) for _, r in points]))
    for name, color, dash, values in curves:
        spots = [(places[t], up(v)) for (t, _), v in zip(points, values)]
        line = " ".join(f"{px:.1f},{py:.1f}" for px, py in spots)
        out.append(f'<polyline points="{line}" fill="none" stroke="{color}" stroke-width="2"{dash}/>')
        if not dash:
            out += [f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3" fill="{color}"><title>{name}: {v:.0f}</title></circle>'
                    for (px, py), v in zip(spots, values)]
    return out


def panels(data):
    """[(title, x label, points)] in rows of one (model, weights)."""
    for (model, weights), results in groups(data):
        row = []
        prefill = [(numbers(r)[1], r) for r in results if numbers(r)[0] == "prefill"]
        if prefill:
            row.append((f"{model} {weights}, prefill", "tokens of the prompt", prefill))
        for context in sorted({numbers(r)[2] for r in results if numbers(r)[0] == "decode"}):
            points = [(numbers(r)[1], r) for r in results if numbers(r)[0] == "decode" and numbers(r)[2] == context]
            row.append((f"{weights}, decode, {context} tokens", "batch", points))
        yield row


def svg(data):
    """A row of panels for each kind of weights: prefill, then decode at each context; tokens per second."""
    sides = [s["name"] for s in data["sides"]]
    rows = list(panels(data))
    every = [v for row in rows for _, _, points in row for _, r in points
             for v in [speed(r, "Blade") / share(r), *(speed(r, s) for s in sides)]]
    lo, hi = 0.8 * min(every), 1.25 * max(every)
    width = max(WIDTH * max(map(len, rows)), LEFT + 150 * (len(sides) + 2))
    height = HEIGHT * len(rows) + 30
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
           'font-family="sans-serif">', f'<rect width="{width}" height="{height}" fill="white"/>']
    for i, row in enumerate(rows):
        for j, (title, x_label, points) in enumerate(row):
            out += panel(j * WIDTH, i * HEIGHT + 24, title, x_label, points, sides, lo, hi)
    for i, name in enumerate([*sides, "limit of the machine"]):
        color = PALETTE[i % len(PALETTE)] if i < len(sides) else "#555"
        out.append(f'<rect x="{LEFT + 150 * i}" y="10" width="18" height="4" fill="{color}"/>')
        out.append(text(LEFT + 24 + 150 * i, 16, name, "start"))
    out.append(text(LEFT + 24 + 150 * (len(sides) + 1), 16, "tokens/s", "start"))
    return "\n".join([*out, "</svg>", ""])
