"""`python -m ragsvc`, and the command `ragsvc`."""

import sys

from ragsvc.cli import main

if __name__ == "__main__":
    sys.exit(main())
