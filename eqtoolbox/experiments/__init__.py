"""Experiments: one module per figure or table of the papers, configuration → run → result → claims → plot.

``eqtoolbox reproduce --list`` shows them. See ``eqtoolbox.experiments.Experiment`` for how to write one.
"""

from eqtoolbox.experiments._command import Reproduce, reproduce
from eqtoolbox.experiments._errors import ExperimentError
from eqtoolbox.experiments._experiment import Experiment, all_experiments, find_experiments
from eqtoolbox.experiments._finding import Finding, at_least, at_most
from eqtoolbox.experiments._page import index_page
from eqtoolbox.experiments._run import Outcome, run_experiment
from eqtoolbox.experiments._store import Store, open_store
from eqtoolbox.experiments._trained import Trained, descent, trained
from eqtoolbox.experiments._trees import load_tree
from eqtoolbox.pages import save_tree

__all__ = [
    "Experiment",
    "ExperimentError",
    "Finding",
    "Outcome",
    "Reproduce",
    "Store",
    "Trained",
    "all_experiments",
    "at_least",
    "at_most",
    "descent",
    "find_experiments",
    "index_page",
    "load_tree",
    "open_store",
    "reproduce",
    "run_experiment",
    "save_tree",
    "trained",
]
