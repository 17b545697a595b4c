"""Runs the experiments: ``python scripts/reproduce.py --list | NAME … | --all [--full] [--out DIR] [--force]``.

The same as ``eqtoolbox reproduce``.
"""

import sys

from eqtoolbox.cli import main

if __name__ == "__main__":
    sys.exit(main(["reproduce", *sys.argv[1:]]))
