"""`python3 hack/tools PROGRAM`: print the path of a program, got now if needed."""

import sys
from pathlib import Path

# Run by its folder, Python puts hack/tools on the path; the packages beside it are found from hack/.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from tools.cli import main  # noqa: E402 (the line above must come first)

if __name__ == "__main__":
    sys.exit(main())
