"""Every figure of docs/performance.md, measured by one command: ``python -m benchmarks``."""
