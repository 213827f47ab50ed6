"""From single measurements to medians, ratios and Markdown tables."""

from statistics import median

ENDS = ("peak MiB", "of bf16", "of fp32")
MAIN = ("task", "side", "px", "images/s", "min to max", "ratio", "s per 1,000", "CPU s per 1,000", *ENDS)
SCALING = ("images/s", "seconds", "CPU s", *ENDS)
TITLES = {
    "images": "Engine, detection: number of images",
    "size": "Engine, detection: image size (px)",
    "batch": "Engine, detection: batch size",
    "workers": "Reference, detection: loader workers",
    "threads": "Engine, detection: threads",
}


def summary(repeats):
    """Medians over the repeats of one workload; the speed with its range, the largest of the memory peaks."""
    out = {key: value for key, value in repeats[0].items() if not isinstance(value, float)}
    for key in ("images_per_s", "wall_s", "cpu_s"):
        out[key] = median(r[key] for r in repeats)
    speeds = [r["images_per_s"] for r in repeats]
    peaks = {key: max(r[key] for r in repeats) for key in ("peak_mib", "peak_worker_mib", "peak_gpu_mib")}
    return out | {"repeats": len(repeats), "slowest": min(speeds), "fastest": max(speeds)} | peaks


def shares(measured, flops, peak_gflops):
    """Add to a measurement its share of each matrix-product peak: counted operations x speed / peak.

    None where the machine has no such peak; a measurement that failed stays as it is. A training step is more than
    products, so 1 is out of reach.
    """
    if "failed" in measured:
        return measured
    rate = flops[f"{measured['task']} {measured['size']}"] * measured["images_per_s"] / 1e9
    found = {f"share_of_{name}_peak": rate / peak if peak else None for name, peak in peak_gflops.items()}
    return measured | found


def ratios(main):
    """Engine's speed over the reference's, for each task: {"detection_speedup": ...}."""
    return {f"{task}_speedup": r["engine"]["images_per_s"] / r["reference"]["images_per_s"] for task, r in main.items()}


def hardware_lines(hardware, peak_gflops):
    """The machine in two lines."""
    device = f"{hardware['gpu']}, " if hardware["gpu"] else ""
    bf16 = f"bf16 {peak_gflops['bf16']:,.0f} GFLOP/s" if peak_gflops["bf16"] else "no bf16 in hardware"
    return (
        f"{device}{hardware['cpu']}, {hardware['cores']} cores, {hardware['threads']} threads, "
        f"{hardware['memory_gib']} GiB, torch {hardware['torch']}, Python {hardware['python']}\n"
        f"matrix-product peaks, measured: {bf16}, fp32 {peak_gflops['fp32']:,.0f} GFLOP/s; "
        f"the engine computes in {hardware['arithmetic']}"
    )


def main_table(main):
    """The main table as Markdown."""
    rows, speedups = [], ratios(main)
    for name, sides in main.items():
        for side, r in sides.items():
            ratio = f"{speedups[f'{name}_speedup']:.1f}" if side == "engine" else ""
            per_image = [f"{1000 * r[key] / r['images']:.1f}" for key in ("wall_s", "cpu_s")]
            spread = f"{r['slowest']:.1f} to {r['fastest']:.1f}"
            speed = [f"{r['images_per_s']:.1f}", spread, ratio]
            rows.append([r["task"], side, str(r["size"]), *speed, *per_image, *_ends(r)])
    return markdown(MAIN, rows)


def scaling_table(field, results):
    """How one number changes speed and memory, as Markdown; a measurement that failed says so."""
    rows = []
    for r in results:
        if "failed" in r:
            rows.append([f"{r[field]:,}", "failed", *[""] * (len(SCALING) - 1)])
        else:
            speed = [f"{r['images_per_s']:.1f}", f"{r['wall_s']:.1f}", f"{r['cpu_s']:.1f}"]
            rows.append([f"{r[field]:,}", *speed, *_ends(r)])
    first = results[0]
    fixed = {"size": f"{first['size']} px", "batch": f"batch {first['batch']}"}
    constant = [words for key, words in fixed.items() if key != field]
    return f"{TITLES[field]} ({', '.join(constant)})\n\n{markdown((field, *SCALING), rows)}"


def _ends(r):
    memory = f"{r['peak_mib']:,.0f}"
    if r["peak_gpu_mib"]:
        memory += f" + {r['peak_gpu_mib']:,.0f} GPU"
    values = [r[f"share_of_{name}_peak"] for name in ("bf16", "fp32")]
    return [memory, *("-" if value is None else f"{value:.0%}" for value in values)]


def markdown(head, rows):
    """A Markdown table with columns of equal width: numbers to the right."""
    cells = [list(head), *rows]
    widths = [max(3, *(len(row[i]) for row in cells)) for i in range(len(head))]
    words = [i for i in range(len(head)) if i < 2 and not rows[0][i][:1].isdigit()]

    def line(row):
        return "| " + " | ".join(c.ljust(w) if i in words else c.rjust(w)
                                 for i, (c, w) in enumerate(zip(row, widths, strict=True))) + " |"  # fmt: skip

    rule = "|" + "|".join("-" * (w + 2) if i in words else "-" * (w + 1) + ":" for i, w in enumerate(widths)) + "|"
    return "\n".join([line(cells[0]), rule, *map(line, rows)])
