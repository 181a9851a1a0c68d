"""Everything that runs on Ray, and the only room that imports it: executors, pools, nodes, fits."""
