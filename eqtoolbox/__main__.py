"""``python -m eqtoolbox`` is the console command ``eqtoolbox``."""

import sys

from eqtoolbox.cli import main

if __name__ == "__main__":
    sys.exit(main())
