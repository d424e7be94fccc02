"""How fast the engine is, measured: what these programs write is kept in `benchmarks/`."""
