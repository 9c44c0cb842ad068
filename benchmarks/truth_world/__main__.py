"""`python benchmarks/truth_world --work FOLDER`: see sweep.py."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # a folder that is run stands there itself
    from truth_world.sweep import main

    main()
