"""``python -m c2dlib``: what the Makefile calls."""

import sys

if __name__ == "__main__":
    try:
        from c2dlib.cli import main

        code = main()
    except KeyboardInterrupt:
        print("\nInterrupted before the command began.", file=sys.stderr)
        code = 130
    sys.exit(code)
