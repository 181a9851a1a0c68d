"""Methods: one file each. A method decides the slots of a class and which sampler and guidance make their images."""
