"""Run the command ``unwedged`` as ``python -m unwedged``."""

import sys

from unwedged.tools.command import main

sys.exit(main())
