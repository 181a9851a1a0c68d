"""The section `source`: where the images come from."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, PrivateAttr, field_validator

from raydistill.config.base import Fraction, Section, class_list, class_lists

Channels = tuple[tuple[float, float, float], tuple[float, float, float]]  # means and deviations


class SourceConfig(Section):
    """Where the images come from."""

    kind: Annotated[str, Field(description="digits | imagefolder | parquet | webdataset; auto = what lies there")] = (
        "digits"
    )
    path: Annotated[
        str | None,
        Field(description="folder that holds the splits, or OWNER/NAME of a data set on the Hugging Face hub"),
    ] = None
    revision: Annotated[str | None, Field(description="branch, tag or commit of it on the hub; null = main")] = None
    train: Annotated[str, Field(description="name of the training split")] = "train"
    val: Annotated[
        str,
        Field(description="name of the validation split; split:0.2 = a fifth of each class's training images"),
    ] = "val"
    image_column: Annotated[
        str | None,
        Field(description="column of a Parquet or Arrow table that holds the images; null = the one that fits"),
    ] = None
    label_column: Annotated[
        str | None,
        Field(description="column or WebDataset JSON key that holds the labels; null = the one that fits"),
    ] = None
    image_size: Annotated[int, Field(ge=8, le=1024, description="pixels a side; centre crop, bicubic")] = 32
    classes: Annotated[
        list[str] | None,
        Field(description="class ids to use, in this order, or the name of a list that ships; null = all"),
    ] = None
    search_split: Annotated[
        float,
        Field(
            ge=0,
            le=0.5,
            description=(
                "share of training images held out by id; above 0 it replaces the validation split, to choose settings"
            ),
        ),
    ] = 0.0
    licence: Annotated[str | None, Field(description="terms of the images, for the card of what is made of them")] = (
        None
    )
    max_broken: Annotated[Fraction, Field(description="largest fraction of unreadable images that is skipped")] = 0.01
    max_pixels: Annotated[
        int, Field(ge=64, description="an image of more pixels is refused as a decompression bomb")
    ] = 50_000_000

    _in_cache: tuple[str, str] | None = PrivateAttr(default=None)  # the id, and its folder in the hub's cache
    _normalisation: Channels | None = PrivateAttr(default=None)  # of tensors beside which nothing is said

    @property
    def folder(self) -> str | None:
        """Where the images of `path` lie: the path itself, or the folder in the hub's cache of an id."""
        return self._in_cache[1] if self._in_cache and self.on_hub else self.path

    @property
    def on_hub(self) -> bool:
        """Whether `path` is an id on the hub; known once it is settled."""
        return self._in_cache is not None and self._in_cache[0] == self.path

    def fetched(self, folder: str, commit: str) -> SourceConfig:
        """The same of a data set of the hub, which lies in `folder` and is of `commit`."""
        config = self.model_copy(update={"revision": commit})
        config._in_cache = (str(self.path), folder)
        return config

    @property
    def normalisation(self) -> Channels | None:
        """Mean and standard deviation of the channels that tensors are taken to be normalised by."""
        return self._normalisation

    def normalised_by(self, statistics: Channels) -> SourceConfig:
        """The same of tensors that are taken to be normalised by these."""
        config = self.model_copy()
        config._normalisation = statistics
        return config

    @field_validator("classes", mode="before")
    @classmethod
    def _named_list(cls, value: Any) -> Any:
        """`imagewoof` stands for the ids in classlists/imagewoof.txt; any other text is a class."""
        alone = value[0] if isinstance(value, list) and len(value) == 1 else value
        if not isinstance(alone, str):
            return value
        return class_list(alone) if alone in class_lists() else [alone]
