"""What tests of every room share."""

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
"""Real data that is kept beside the repository and never in it."""


def shared_data(name: str) -> Path:
    """Return the folder `name` of the shared data, or skip the test that asks."""
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"{name} is not here: it is looked for in {SHARED}, beside the repository")
    return folder


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the trials and counters of the fault tests that ran."""
    reports = [report for some in terminalreporter.stats.values() for report in some]
    told = {value for report in reports for key, value in getattr(report, "user_properties", ()) if key == "faults"}
    if told:
        from tests.faults.tally import table

        terminalreporter.section("faults")
        for line in table(told):
            terminalreporter.write_line(line)
