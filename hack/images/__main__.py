"""`python3 hack/images build [TARGET ...]`: see `python3 hack/images --help`."""

import sys
from pathlib import Path

# Run by its folder, Python puts hack/images on the path; the packages beside it are found from hack/.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from images.cli import main  # noqa: E402 (the line above must come first)

if __name__ == "__main__":
    sys.exit(main())
