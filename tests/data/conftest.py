"""What the readers' tests and those of the formats share: the writers of every format."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent / "formats"))  # for `written`
