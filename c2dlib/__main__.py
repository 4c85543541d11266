"""``python -m c2dlib``: what the Makefile calls."""

import sys

from c2dlib.cli import main

if __name__ == "__main__":
    sys.exit(main())
