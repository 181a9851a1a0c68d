"""The schema of every Parquet file that raydistill writes. Latents are fixed-shape tensors in VAE-scaled space."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pyarrow as pa


def tensor_type(shape: Sequence[int], dtype: pa.DataType) -> pa.FixedShapeTensorType:
    return pa.fixed_shape_tensor(dtype, tuple(shape))


def tensor_array(values: np.ndarray) -> pa.Array:
    """(N, *shape) float16, float32 or uint8 -> a fixed_shape_tensor array of N rows."""
    values = np.ascontiguousarray(values)
    kind = tensor_type(values.shape[1:], pa.from_numpy_dtype(values.dtype))
    flat = pa.array(values.reshape(-1))
    storage = pa.FixedSizeListArray.from_arrays(flat, int(np.prod(values.shape[1:])))
    return pa.ExtensionArray.from_storage(kind, storage)


def tensor_numpy(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """A fixed_shape_tensor column -> (N, *shape)."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(array, pa.ChunkedArray):
        array = array.chunk(0)
    shape = tuple(array.type.shape)
    storage = array.storage
    flat = storage.flatten().to_numpy(zero_copy_only=False)
    return flat.reshape((len(array), *shape))


PLACE = ("class_index", "slot")  # which image of a set a row is of
TRACE = pa.list_(pa.struct([("step", pa.int32()), ("name", pa.string()), ("value", pa.float32())]))


def latents(shape: Sequence[int]) -> pa.Schema:
    """encode and group: one row an image; `latent` (C, h, w) float16, VAE posterior mean x scale_factor."""
    return pa.schema(
        [("image_id", pa.string()), ("class_index", pa.int32()), ("latent", tensor_type(shape, pa.float16()))]
    )


def labels(classes: int) -> pa.Schema:
    """label: one row a view of an image; `row` counts a set's images, the box is in pixels of what students see.

    The teacher's logits are low + step x codes, (classes,) in the set's order of classes.
    """
    small = ("view", "top", "left", "height", "width")
    return pa.schema(
        [
            ("row", pa.int32()),
            *((name, pa.int16()) for name in small),
            ("flip", pa.bool_()),
            ("low", pa.float32()),
            ("step", pa.float32()),
            ("codes", tensor_type((classes,), pa.uint8())),
        ]
    )


def features(size: int) -> pa.Schema:
    """embed: one row an image, in the order of group's; `feature` (size,) float32, an embedding."""
    return pa.schema(
        [("image_id", pa.string()), ("class_index", pa.int32()), ("feature", tensor_type((size,), pa.float32()))]
    )


def prototypes(shape: Sequence[int]) -> pa.Schema:
    """cluster: one row a prototype; `size` = members, `sse` = sum of squared distances, `medoid` = nearest image_id."""
    return pa.schema(
        [
            ("class_index", pa.int32()),
            ("prototype_id", pa.int32()),
            ("size", pa.int64()),
            ("sse", pa.float64()),
            ("medoid", pa.string()),
            ("centroid", tensor_type(shape, pa.float32())),
        ]
    )


def means(shape: Sequence[int]) -> pa.Schema:
    """check: one row a class; `mean` of its `size` latents."""
    return pa.schema([("class_index", pa.int32()), ("size", pa.int64()), ("mean", tensor_type(shape, pa.float32()))])


def trees(shape: Sequence[int]) -> pa.Schema:
    """cluster, divisive: one row a node, in order of creation (clustering/tree.py).

    `born` and `split` are the steps that made and split it (0: the root, a leaf): the tree of L leaves is what was born
    before step L. `members` are rows of the class by image id; of leaves only, an inner node has those below it.
    """
    return pa.schema(
        [
            ("class_index", pa.int32()),
            ("node", pa.int32()),
            ("parent", pa.int32()),
            ("level", pa.int32()),
            ("born", pa.int32()),
            ("split", pa.int32()),
            ("size", pa.int64()),
            ("sse", pa.float64()),
            ("medoid", pa.string()),
            ("members", pa.list_(pa.int32())),
            ("centroid", tensor_type(shape, pa.float32())),
        ]
    )


def plan(shape: Sequence[int]) -> pa.Schema:
    """plan: one row a slot. `image_id` is set by methods that pick real images; `prototype` is zero if none."""
    return pa.schema(
        [
            ("class_index", pa.int32()),
            ("class_id", pa.string()),
            ("slot", pa.int32()),
            ("batch", pa.int32()),
            ("prototype_id", pa.int32()),
            ("weight", pa.float64()),
            ("seed_key", pa.string()),
            ("image_id", pa.string()),
            ("prototype", tensor_type(shape, pa.float32())),
        ]
    )


def weights() -> pa.Schema:
    """weigh: one row an image of a set, by class and slot."""
    return pa.schema([("class_index", pa.int32()), ("slot", pa.int32()), ("weight", pa.float64())])


def syntheses(shape: Sequence[int]) -> pa.Schema:
    """sample: one row a slot; `image` is PNG bytes, `latent` the synthesis in VAE-scaled space, `nfe` network calls.

    `trace` holds what guidance did at its steps, by name (diffusion/loop.measured), and the `detour` of a flow
    (diffusion/walk.py); `landing` is |z - prototype| / sqrt(D), null without a prototype.
    """
    return pa.schema(
        [
            ("class_index", pa.int32()),
            ("slot", pa.int32()),
            ("prototype_id", pa.int32()),
            ("weight", pa.float64()),
            ("seed_key", pa.string()),
            ("image_id", pa.string()),
            ("nfe", pa.int32()),
            ("landing", pa.float32()),
            ("trace", TRACE),
            ("image", pa.binary()),
            ("latent", tensor_type(shape, pa.float32())),
        ]
    )


def distilled(class_names: Sequence[str], class_ids: Sequence[str]) -> pa.Schema:
    """The product, in the Hugging Face image layout: `datasets.load_dataset` gives images and ClassLabel names.

    The class ids, by label, are kept in the schema's metadata under `raydistill`.
    """
    features = {
        "image": {"_type": "Image"},
        "label": {"names": list(class_names), "_type": "ClassLabel"},
        **{
            k: {"dtype": d, "_type": "Value"}
            for k, d in {
                "class_name": "string",
                "weight": "float64",
                "slot": "int32",
                "prototype_id": "int32",
                "method": "string",
                "seed_key": "string",
                "provenance": "string",
            }.items()
        },
    }
    fields = [
        ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        ("label", pa.int64()),
        ("class_name", pa.string()),
        ("weight", pa.float64()),
        ("slot", pa.int32()),
        ("prototype_id", pa.int32()),
        ("method", pa.string()),
        ("seed_key", pa.string()),
        ("provenance", pa.string()),
    ]
    kept = {"huggingface": {"info": {"features": features}}, "raydistill": {"class_ids": list(class_ids)}}
    return pa.schema(fields, metadata={k: json.dumps(v) for k, v in kept.items()})
