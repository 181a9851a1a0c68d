"""The pipeline's steps on Ray: the only package that imports ray. Each step is pure work plus a way to spread it."""
