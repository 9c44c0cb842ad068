"""Workers of pytest-xdist have the cores to share: one thread each, in the processes that they start too."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
