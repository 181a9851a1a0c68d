"""Students: one file each; `build(classes, image_size, width) -> nn.Module` taking float32 (B, 3, S, S).

`width` = 128 gives the channels of the papers; every student scales with it.
"""
