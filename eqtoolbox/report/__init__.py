"""The symmetry report of a model: one registered file per section, one page, one JSON, one summary."""

from eqtoolbox.report._compare import Comparison, compare
from eqtoolbox.report._comparison_table import print_comparison
from eqtoolbox.report._config import Config
from eqtoolbox.report._context import Context
from eqtoolbox.report._doctor import Finding, examine
from eqtoolbox.report._errors import ReportError
from eqtoolbox.report._file import load_report, schema
from eqtoolbox.report._load import load_problem
from eqtoolbox.report._report import FORMAT, FORMAT_VERSION, Finished, Report
from eqtoolbox.report._run import make_report
from eqtoolbox.report._section import Check, Number, Section, SectionResult, all_sections
from eqtoolbox.report._terminal import print_summary
from eqtoolbox.report._train import Probe, Run, Step, train
from eqtoolbox.report._write import check_target, write

__all__ = [
    "FORMAT",
    "FORMAT_VERSION",
    "Check",
    "Comparison",
    "Config",
    "Context",
    "Finding",
    "Finished",
    "Number",
    "Probe",
    "Report",
    "ReportError",
    "Run",
    "Section",
    "SectionResult",
    "Step",
    "all_sections",
    "check_target",
    "compare",
    "examine",
    "load_problem",
    "load_report",
    "make_report",
    "print_comparison",
    "print_summary",
    "schema",
    "train",
    "write",
]
