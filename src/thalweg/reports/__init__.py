"""Reports: tables, figures, structure views and the standalone page, made from run folders alone."""

from __future__ import annotations

from thalweg.reports.page import write_report
from thalweg.reports.run import Run, read_run
from thalweg.reports.table import print_table

__all__ = ["Run", "print_table", "read_run", "write_report"]
