"""Writes crates/lm-monitor/src/golden.json: what river and scipy say of streams and windows that the Rust tests make anew.

    pip install river==0.26.1 scipy
    python3 tests/data/detector_golden.py
"""

import json
from pathlib import Path

import numpy
from river import drift
from scipy import special, stats
from scipy.spatial import distance

MASK = (1 << 64) - 1
TARGET = Path(__file__).resolve().parents[2] / "crates" / "lm-monitor" / "src" / "golden.json"


def uniforms(seed):
    """Marsaglia's xorshift64*: the same numbers as in the Rust tests."""
    state = seed * 0x9E3779B97F4A7C15 & MASK | 1
    while True:
        state ^= state >> 12
        state ^= state << 25 & MASK
        state ^= state >> 27
        yield (state * 0x2545F4914F6CDD1D & MASK) / (1 << 64)


def flips(seed, rates, n_each):
    dice = uniforms(seed)
    return [float(next(dice) < rate) for rate in rates for _ in range(n_each)]


def bells(seed, means, n_each):
    """Sums of twelve uniform numbers: nearly normal, standard deviation 1."""
    dice = uniforms(seed)
    return [
        sum(next(dice) for _ in range(12)) - 6.0 + mean for mean in means for _ in range(n_each)
    ]


def alarms(detector, values):
    found = []
    for i, value in enumerate(values):
        detector.update(value)
        if detector.drift_detected:
            found.append(i)
    return found


def adwin(values):
    """ADWIN goes on with its shrunk window; river begins anew instead, so only its first alarm is compared."""
    return alarms(drift.ADWIN(), values)[:1]


def windows():
    a, b = bells(5, [0.0], 300), [1.2 * x + 0.3 for x in bells(6, [0.0], 400)]
    edges = [-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5]
    count = lambda values: numpy.histogram(values, [-99.0, *edges, 99.0])[0]
    n, m = count(a), count(b)
    p, q = n / n.sum(), m / m.sum()
    ks = stats.ks_2samp(a, b).statistic
    chi = stats.chi2_contingency([n, m], correction=False)
    return {
        "counts": [n.tolist(), m.tolist()],
        "ks": [ks, special.kolmogorov(ks * (300 * 400 / 700) ** 0.5)],
        "wasserstein": stats.wasserstein_distance(a, b),
        "jensen_shannon": distance.jensenshannon(p, q),
        "hellinger": distance.euclidean(p**0.5, q**0.5) / 2**0.5,
        "psi": float(special.rel_entr(p, q).sum() + special.rel_entr(q, p).sum()),
        "chi_square": [chi.statistic, chi.pvalue],
    }


def golden():
    p_values = [0.001, 0.2, 0.03, 0.04, 0.9, 0.0004, 0.03]
    return {
        "page_hinkley": alarms(drift.PageHinkley(), bells(1, [0.0, 1.5, -1.0], 1000)),
        "ddm": alarms(drift.binary.DDM(), flips(2, [0.2, 0.5, 0.1, 0.4], 1000)),
        "adwin_flips": [adwin(flips(seed, [0.2, 0.5], 1000)) for seed in range(10, 15)],
        "adwin_bells": [adwin(bells(seed, [0.0, 1.0], 1000)) for seed in range(20, 25)],
        "adwin_steady": adwin(bells(30, [0.0], 5000)),
        "windows": windows(),
        "chi_square_tail": [[x, n, stats.chi2.sf(x, n)] for x, n in
                            [(0.5, 1), (3.84, 1), (16.9, 9), (5.0, 9), (150.0, 99), (80.0, 9)]],
        "chi_square_limit": [[a, n, stats.chi2.isf(a, n)] for a, n in [(0.05, 9), (0.001, 4)]],
        "kolmogorov_tail": [[x, special.kolmogorov(x)] for x in [0.3, 0.8, 1.2, 1.36, 2.0]],
        "benjamini_hochberg": [p_values, stats.false_discovery_control(p_values).tolist()],
    }


if __name__ == "__main__":
    TARGET.write_text(json.dumps(golden(), indent=1, default=float) + "\n")
