"""What holds for all tests: threads of the workers, and what cuBLAS reads once in a process."""

import os

# Workers of pytest-xdist have the cores to share: one thread each, in the processes that they start too.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# cuBLAS asks for it under deterministic algorithms, and reads it at its first call: whichever test makes that.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
