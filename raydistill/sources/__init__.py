"""Image sources: one file a kind. A source lists a split in a fixed order and reads encoded images by id."""
