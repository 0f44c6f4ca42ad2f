"""A campaign of faults that tries to show the promise of docs/safety.md false: `make chaos SECONDS=120 SEED=1`."""
