"""The clocks, cases, peers and tables of `bench kernels` and `bench step` (docs/performance.md)."""
