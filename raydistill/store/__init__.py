"""Storage: locations, content-named data, commit records, manifests, schemas, the run directory (DESIGN promises 2, 5)."""
