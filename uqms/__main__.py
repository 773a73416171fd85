"""``python -m uqms`` is the command ``uqms``."""

import sys

from uqms.cli import main

if __name__ == "__main__":
    sys.exit(main())
