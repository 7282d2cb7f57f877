#!/usr/bin/env python3
"""One table of what bench_kernels measured and what peers.py found, as Markdown and JSON.

usage: table.py OURS.json OUT-PREFIX [PEERS.json ...]

The limit of a kind is the best rate that anyone reached in this run, ours or a library's; a kernel's share is of the one
that binds it: bytes that must move over the copy's rate, or operations over the peak's."""
import json
import sys

UNITS = {"copy": ("GB/s", 1e9), "read": ("GB/s", 1e9), "bf16": ("TFLOP/s", 1e12), "int8": ("TOP/s", 1e12)}


def merge(ours, peers):
    """Adds "limits", "peers" of each sample and "share" to our report."""
    limits = {name: {"ours": rate} for name, rate in ours.get("limits", {}).items()}
    others = {}
    for report in peers:
        for name, rate in report["limits"].items():
            limits.setdefault(name, {})[report["software"]] = rate
        for row in report["results"]:
            others.setdefault(row["name"], []).append(row)
    best = {name: max(rates.values()) for name, rates in limits.items()}
    for sample in ours["samples"]:
        sample["peers"] = others.get(sample["name"], [])
        if "seconds" in sample:
            sample["share"], sample["limit"] = share(sample, best)
    return {**ours, "limits": limits, "software": sorted({r["software"] for r in peers})}


def share(sample, best):
    times = {"copy": sample["moved"] / best["copy"] if best.get("copy") else 0}
    if best.get(sample["peak"]):
        times[sample["peak"]] = sample["operations"] / best[sample["peak"]]
    limit = max(times, key=times.get)
    return times[limit] / sample["seconds"], limit


def microseconds(seconds):
    return f"{seconds * 1e6:.1f}" if seconds else "not compiled"


def peer_text(sample):
    parts = []
    for row in sample["peers"]:
        if "seconds" in row:
            ratio = row["seconds"] / sample["seconds"]
            parts.append(f"{row['who']} {microseconds(row['seconds'])} us, {ratio:.2f} of its speed")
        else:
            parts.append(f"{row['who']}: {row['failure'][:60]}")
    return "; ".join(parts)


def rows(report):
    for s in report["samples"]:
        if "seconds" not in s:
            yield f"| {s['name']} | failed: {s['failure'][:120]} | | | | | | |"
            continue
        yield (f"| {s['name']} | {microseconds(s['seconds'])} | {microseconds(s['default_seconds'])} | "
               f"{s['moved'] / s['seconds'] / 1e9:.0f} | {s['operations'] / s['seconds'] / 1e12:.1f} | "
               f"{100 * s['share']:.0f} % of {s['limit']} | {s['settings']} | {peer_text(s)} |")


def notes(report):
    differ = sum(s.get("other_bits", 0) for s in report["samples"])
    unbuilt = sorted({u["label"] for s in report["samples"] for u in s.get("unbuilt", [])})
    if differ:
        yield f"{differ} candidates gave other bits than the default and were not timed."
    if unbuilt:
        yield f"{len(unbuilt)} candidates were not compiled: " + "; ".join(unbuilt)


def markdown(report):
    lines = [f"# {report['device']}, code for {report['target']}", ""]
    lines += ["Measured by tests/gpu/bench.sh" + (f", beside {', '.join(report['software'])}" if report["software"] else "") + ".", ""]
    lines += ["| limit | " + "rates |", "|---|---|"]
    for name, rates in sorted(report["limits"].items()):
        unit, scale = UNITS.get(name, ("/s", 1))
        lines.append(f"| {name} | " + ", ".join(f"{rate / scale:.1f} {unit} ({who})" for who, rate in rates.items()) + " |")
    lines += ["", "| kernel | us | default us | GB/s | TFLOP/s | share of the limit | settings | others |",
              "|---|--:|--:|--:|--:|--:|---|---|", *rows(report), "", *notes(report)]
    return "\n".join(lines).rstrip() + "\n"


def main():
    ours, prefix, *peers = sys.argv[1:]
    reports = []
    for path in peers:
        try:
            with open(path) as f:
                reports.append(json.load(f))
        except (OSError, ValueError) as e:  # a part that was cut short
            print(f"table: {path}: {e}", file=sys.stderr)
    with open(ours) as f:
        report = merge(json.load(f), reports)
    text = markdown(report)
    with open(f"{prefix}.md", "w") as f:
        f.write(text)
    with open(f"{prefix}.json", "w") as f:
        json.dump(report, f, indent=1)
    print(text, end="")


if __name__ == "__main__":
    main()
