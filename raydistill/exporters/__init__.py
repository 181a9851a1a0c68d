"""Exporters: `files(product) -> (path, bytes)`, one file a format; `write` puts them into a folder as one whole."""
