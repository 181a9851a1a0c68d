"""Many runs side by side: cells that stay on disk, stage outputs that they share, one fit over the sets of many."""
