"""The figures of docs/claims.md, from what the repository's own tools have recorded.

    python3 scripts/claims.py FILE...

FILE is of `trellect bench --output`, of `trellect tune --record`, or of `gpu time` (`bench-record/h100/table*.json`). One
numeric class (`half`) and, of a benchmark, its largest number of threads. Only the standard library is needed.
"""

import json
import math
import re
import statistics
import sys

KERNEL = re.compile(r"moe_trellis_swiglu(?:_([a-z][a-z0-9_]*?))?(?:_(\d_\d_\d))?@(\S+)")


def cells(path):
    """Everything in a file as (workload, kernel, milliseconds, whether the selector picks it)."""
    with open(path) as file:
        data = json.load(file)
    if data.get("format") == "trellect-matrix":
        for context in data["contexts"]:
            if context["routing"] == "uniform":
                for kernel, cell in zip(data["kernels"], context["cells"]):
                    if "ns" in cell:
                        median = statistics.median(cell["ns"]) / 1e6
                        yield (data["name"], "", context["num_tokens"]), kernel["name"], median, False
        return
    most = max((cell.get("threads") or 0 for cell in data["cells"]), default=0)
    for cell in data["cells"]:
        if cell["numeric"] == "half" and (cell.get("threads") or 0) == most:
            ms = cell["median_ms"] if "median_ms" in cell else cell["median_us"] / 1e3
            yield (cell["shape"], cell["bits"], cell["tokens"]), cell["kernel"], ms, cell.get("picked", False)


def mean(ratios):
    return math.exp(statistics.fmean(map(math.log, ratios)))


def family(kernel):
    """(family, tuple or None, implementation)"""
    name, bits, implementation = KERNEL.fullmatch(kernel).groups()
    return name or "base", bits, implementation


def best(times, wanted):
    """The fastest implementation of a family, unspecialised."""
    found = [ms for kernel, ms in times.items() if family(kernel)[:2] == (wanted, None)]
    return min(found) if found else None


def uniform(workloads, picks):
    """Of layers of one kind over all numbers of tokens: the selector and the fastest against one kernel.

    Left out where no kernel was measured at all of them.
    """
    kinds = {}
    for (shape, bits, tokens), times in workloads.items():
        kinds.setdefault((shape, bits), {})[tokens] = times
    print("\n| layer | calls of tokens | best single kernel | its time over the fastest's (worst) | the selector's |")
    print("|---|---|---|---|---|")
    for (shape, bits), by_tokens in sorted(kinds.items()):
        common = set.intersection(*(set(times) for times in by_tokens.values()))
        fastest = {tokens: min(times.values()) for tokens, times in by_tokens.items()}
        ratios = {
            kernel: [times[kernel] / fastest[tokens] for tokens, times in by_tokens.items()] for kernel in common
        }
        picked = [
            by_tokens[tokens][picks[shape, bits, tokens]] / fastest[tokens]
            for tokens in by_tokens if (shape, bits, tokens) in picks
        ]
        tokens = ", ".join(map(str, sorted(by_tokens)))
        if not ratios:
            continue
        kernel = min(ratios, key=lambda kernel: mean(ratios[kernel]))
        selector = f"{mean(picked):.3f}" if len(picked) == len(by_tokens) else "-"
        name = kernel.removeprefix("moe_trellis_swiglu").lstrip("_")
        print(f"| {shape} {bits} | {tokens} | `{name}` | {mean(ratios[kernel]):.3f} ({max(ratios[kernel]):.2f}) | {selector} |")


def specialised(workloads):
    """Decode with the widths as constants against decode that reads them, implementation by implementation."""
    rows = []
    for (shape, bits, tokens), times in sorted(workloads.items()):
        for kernel, ms in times.items():
            name, own, implementation = family(kernel)
            generic = times.get(f"moe_trellis_swiglu_decode@{implementation}")
            if name == "decode" and own and generic:
                rows.append((f"{shape} {bits}", tokens, own, implementation, generic / ms))
    print("\n| layer | tokens | specialised for | implementation | generic's time over specialised's |")
    print("|---|---|---|---|---|")
    for layer, tokens, own, implementation, ratio in rows:
        print(f"| {layer} | {tokens} | {own} | {implementation} | {ratio:.3f} |")


def large_batches(workloads):
    """The best implementation of base against that of large_batch, by tokens."""
    kinds = {}
    for (shape, bits, tokens), times in workloads.items():
        base, large = best(times, "base"), best(times, "large_batch")
        if tokens >= 33 and base and large:
            kinds.setdefault((shape, bits), {})[tokens] = base / large
    columns = sorted({tokens for row in kinds.values() for tokens in row})
    print("\n| layer: base's time over large_batch's at tokens | " + " | ".join(map(str, columns)) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for (shape, bits), row in sorted(kinds.items()):
        print(f"| {shape} {bits} | " + " | ".join(f"{row[t]:.2f}" if t in row else "-" for t in columns) + " |")
    means = [mean([row[tokens] for row in kinds.values() if tokens in row]) for tokens in columns]
    print("| geometric mean | " + " | ".join(f"{ratio:.2f}" for ratio in means) + " |")


def main(paths):
    for path in paths:
        workloads, picks = {}, {}
        for workload, kernel, ms, picked in cells(path):
            workloads.setdefault(workload, {})[kernel] = ms
            if picked:
                picks[workload] = kernel
        print(f"\n## {path}")
        uniform(workloads, picks)
        specialised(workloads)
        large_batches(workloads)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(sys.argv[1:])
