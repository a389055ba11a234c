"""`python -m peakhold.demo`."""

import sys

from peakhold.demo.run import main

if __name__ == "__main__":
    sys.exit(main())
