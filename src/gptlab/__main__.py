"""`python -m gptlab`, for where the command is not on the path."""

import sys

from gptlab.cli import main

if __name__ == "__main__":
    sys.exit(main())
