"""Layers that several files test, made once; and what did not run is said where it is not overlooked."""

import collections

import hypothesis
import pytest
from dense import EXPERTS, HIDDEN, INTERMEDIATE, Dense

from trellect import Checkpoint, synth

# The machine may be slow at any moment.
hypothesis.settings.register_profile("ours", deadline=None, database=None, max_examples=300)
hypothesis.settings.load_profile("ours")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = terminalreporter.stats.get("skipped", [])
    reasons = collections.Counter(report.longrepr[2].removeprefix("Skipped: ") for report in skipped)
    for reason, count in sorted(reasons.items()):
        terminalreporter.write_line(f"NOT RUN: {count} tests: {reason}", yellow=True, bold=True)


@pytest.fixture(scope="session")
def path(tmp_path_factory):
    """A checkpoint of two layers."""
    path = tmp_path_factory.mktemp("checkpoint")
    sizes = dict(hidden_size=HIDDEN, intermediate_size=INTERMEDIATE, num_experts=EXPERTS)
    synth.write_synthetic(path, **sizes, layers=[0, 3], seed=5)
    return path


@pytest.fixture(scope="session")
def checkpoint(path):
    return Checkpoint(path)


@pytest.fixture(scope="session")
def dense(checkpoint):
    return Dense(checkpoint, 0)


@pytest.fixture(scope="session")
def layer(checkpoint):
    return checkpoint.layer(0)
