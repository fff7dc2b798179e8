"""``python -m ase_klm.cli``."""

import sys

from ase_klm.cli import main

if __name__ == "__main__":
    sys.exit(main())
