"""What did not run is said at the end, where it is not overlooked."""

import collections

import hypothesis
import pytest

# The machine may be slow at any moment.
hypothesis.settings.register_profile("ours", deadline=None, database=None, max_examples=300)
hypothesis.settings.load_profile("ours")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = terminalreporter.stats.get("skipped", [])
    reasons = collections.Counter(report.longrepr[2].removeprefix("Skipped: ") for report in skipped)
    for reason, count in sorted(reasons.items()):
        terminalreporter.write_line(f"NOT RUN: {count} tests: {reason}", yellow=True, bold=True)
