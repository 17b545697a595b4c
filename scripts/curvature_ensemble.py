"""Averages the curvature of thousands of models; the same as ``eqtoolbox ensemble``.

python scripts/curvature_ensemble.py --widths 5 5 5 5 --activation relu --models 100000 --steps 20 --out runs/relu
"""

import sys

from eqtoolbox.cli import main

if __name__ == "__main__":
    sys.exit(main(["ensemble", *sys.argv[1:]]))
