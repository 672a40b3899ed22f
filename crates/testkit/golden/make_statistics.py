"""Values of SciPy, NumPy and statsmodels that the crates' own statistics are tested against.

    pip install numpy==2.4.6 scipy==1.17.1 statsmodels==0.15.0
    python make_statistics.py > statistics.json

Everything is drawn from fixed seeds, so the file is the same on every run with these versions.
"""

import json

import numpy as np
from scipy import integrate, optimize, stats
from statsmodels.stats.multitest import multipletests

QUANTILES = [0.0, 0.025, 0.1, 0.25, 0.5, 0.9, 0.95, 0.99, 1.0]
# What the intervals of the crates resample; theirs are compared with far longer runs.
RESAMPLES = {"median": 1000, "ratio": 1000, "mean": 2000}
EXACT = 200_000
RUNS = 200


def latencies(rng, count, median_ms, spread, stalls=0):
    """Log-normal milliseconds, a few of them stalled."""
    ms = median_ms * np.exp(spread * rng.standard_normal(count))
    ms[:stalls] *= 20
    return [float(f"{value:.6g}") for value in ms]


def samples(rng):
    return [
        latencies(rng, count, median_ms, spread, stalls)
        for count, median_ms, spread, stalls in [
            (1, 0.5, 0.1, 0), (2, 0.5, 0.1, 0), (5, 2.0, 0.02, 0), (30, 0.7, 0.05, 2),
            (101, 18.0, 0.1, 5), (400, 0.003, 0.3, 0),
        ]
    ]


def describe(values):
    array = np.array(values)
    logs = np.log(np.floor(array * 1e6 + 0.5))
    return {
        "values": values,
        "median": float(np.median(array)),
        "quantiles": [[q, float(np.quantile(array, q))] for q in QUANTILES],
        "geometric_mean": float(stats.gmean(array)),
        # Of whole nanoseconds, as the history keeps them.
        "mean_ln_ns": float(np.mean(logs)),
        "variance_ln_ns": float(np.var(logs, ddof=1)) if len(values) > 1 else None,
    }


def welch(one, other):
    plain = stats.ttest_ind(one, other, equal_var=False)
    logs = stats.ttest_ind(np.log(one), np.log(other), equal_var=False)
    result = lambda r: {"t": float(r.statistic), "df": float(r.df), "p": float(r.pvalue)}
    return {"one": one, "other": other, "plain": result(plain), "of_logs": result(logs)}


def interval(kind, data, confidence):
    """The bootstrap interval, and how much its ends scatter at the crates' number of resamples."""
    statistic = {
        "median": lambda x, axis=-1: np.median(x, axis=axis),
        "mean": lambda x, axis=-1: np.mean(x, axis=axis),
        "ratio": lambda x, y, axis=-1: np.median(x, axis=axis) / np.median(y, axis=axis),
    }[kind]

    def run(seed, resamples):
        found = stats.bootstrap(
            data, statistic, n_resamples=resamples, confidence_level=confidence, paired=kind == "ratio",
            vectorized=True, method="percentile", batch=2000, rng=np.random.default_rng(seed),
        ).confidence_interval
        return float(found.low), float(found.high)

    ends = np.array([run(1 + seed, RESAMPLES[kind]) for seed in range(RUNS)])
    low, high = run(0, EXACT)
    return {
        "kind": kind, "data": [list(side) for side in data], "confidence": confidence,
        "low": low, "high": high,
        "low_sd": float(ends[:, 0].std(ddof=1)), "high_sd": float(ends[:, 1].std(ddof=1)),
    }


def intervals(rng):
    found = []
    for count, confidence in [(7, 0.95), (30, 0.95), (100, 0.9), (101, 0.99)]:
        one = latencies(rng, count, 1.0, 0.05, count // 20)
        other = latencies(rng, count, 0.9, 0.05, count // 20)
        found += [
            interval("median", (one,), confidence),
            interval("ratio", (one, other), confidence),
        ]
    # The means of the evaluation have intervals of 95 % alone.
    for count in [5, 20, 64]:
        found.append(interval("mean", (latencies(rng, count, 0.03, 0.4),), 0.95))
    return found


def holm(rng):
    cases = [[0.01, 0.04, 0.03, 0.005], [0.2], [0.6, 0.9], [0.02, 0.02, 0.02]]
    cases.append([float(f"{p:.4g}") for p in rng.random(25) ** 4])
    return [
        {"p": p, "corrected": [float(c) for c in multipletests(p, method="holm")[1]]} for p in cases
    ]


def nnls(rng):
    """Weighted rows whose product with non-negative unknowns is to be 1."""
    cases = []
    for count in [4, 12, 40]:
        rows = np.round(rng.random((count, 4)) * [1, 10, 0.01, 3], 5)
        if count == 40:
            rows[:, 3] = np.round(2 - rows[:, 0], 5)
        weights = np.round(0.5 + rng.random(count), 5)
        root = np.sqrt(weights)
        beta, residual = optimize.nnls(rows * root[:, None], root)
        cases.append({
            "rows": rows.tolist(), "weights": weights.tolist(),
            "unknowns": beta.tolist(), "loss": float(residual**2),
        })
    return cases


def log_wealth(total, count, sd, scale):
    """ln of the integral over bets from a half-normal prior, by quadrature."""
    bet = lambda x: x * total / sd**2 - count * x**2 / (2 * sd**2) + stats.halfnorm.logpdf(x, scale=scale)
    top = optimize.minimize_scalar(lambda x: -bet(x), bounds=(0, 20 * scale), method="bounded").x
    value, _ = integrate.quad(
        lambda x: np.exp(bet(x) - bet(top)), 0, 20 * scale, points=[top], epsabs=0, epsrel=1e-12, limit=500
    )
    return float(np.log(value) + bet(top))


def main():
    rng = np.random.default_rng(7)
    pairs = [
        (latencies(rng, n1, m1, s1), latencies(rng, n2, m2, s2))
        for n1, m1, s1, n2, m2, s2 in [
            (5, 1.0, 0.05, 5, 1.1, 0.05), (30, 0.7, 0.02, 30, 0.69, 0.03), (12, 20.0, 0.1, 100, 20.0, 0.01),
            (100, 0.002, 0.2, 50, 0.0021, 0.05),
        ]
    ]
    wealth = [
        (0.5, 16, 0.04, 0.04), (-0.5, 16, 0.04, 0.04), (0.0, 100, 0.02, 0.04), (3.0, 200, 0.05, 0.04),
        (1.2, 5, 0.04, 0.15), (-4.0, 300, 0.04, 0.15),
    ]
    degrees = [4, 4.5, 7.25, 11, 23.9, 30, 31, 47.3, 100, 1000.5]
    values = {
        "samples": [describe(values) for values in samples(rng)],
        "welch": [welch(*pair) for pair in pairs],
        "student_975": [[df, float(stats.t.ppf(0.975, df))] for df in degrees],
        "normal_cdf": [[z, float(stats.norm.cdf(z))] for z in [-5.0, -3.0, -1.5, -0.1, 0.0, 0.7, 2.0, 4.0]],
        "log_wealth": [[list(case), log_wealth(*case)] for case in wealth],
        "intervals": intervals(rng),
        "holm": holm(rng),
        "nnls": nnls(rng),
    }
    lines = (f"{json.dumps(name)}: {json.dumps(value)}" for name, value in values.items())
    print("{\n" + ",\n".join(lines) + "\n}")


if __name__ == "__main__":
    main()
