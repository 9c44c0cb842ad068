"""The clocks, cases, peers and tables of `bench kernels` (docs/performance.md)."""
