"""Reports: tables, figures, structure views and the standalone page, made from run folders alone."""

from __future__ import annotations

from thalweg.reports.dial_page import dial_lines, read_dial_folder, write_dial
from thalweg.reports.map_lines import map_lines
from thalweg.reports.map_page import write_map
from thalweg.reports.page import write_report
from thalweg.reports.run import Run, read_run
from thalweg.reports.study import read_study, study_lines
from thalweg.reports.study_page import write_study
from thalweg.reports.table import print_table

__all__ = [
    "Run",
    "dial_lines",
    "map_lines",
    "print_table",
    "read_dial_folder",
    "read_run",
    "read_study",
    "study_lines",
    "write_dial",
    "write_map",
    "write_report",
    "write_study",
]
