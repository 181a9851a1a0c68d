"""Storage: locations, content-named data, commits, manifests, schemas, the run directory."""
