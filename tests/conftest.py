"""What tests have measured is shown at the end, also where pytest-xdist runs them in other processes."""

from __future__ import annotations

from typing import Any


def pytest_terminal_summary(terminalreporter: Any) -> None:
    for report in terminalreporter.getreports("passed"):
        for table in [value for name, value in report.user_properties if name == "table"]:
            terminalreporter.section(report.nodeid, "-")
            terminalreporter.write_line(table)
