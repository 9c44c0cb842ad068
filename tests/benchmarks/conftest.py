"""The scripts of benchmarks/, and the packages beside them, can be imported."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
