"""`make demo`."""

import sys
from pathlib import Path

# Run by its folder, Python puts hack/demo on the path; the packages beside it are found from hack/.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from demo.story import main  # noqa: E402 (the line above must come first)

if __name__ == "__main__":
    sys.exit(main())
