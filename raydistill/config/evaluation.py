"""The sections of evaluation: protocols, students, soft labels."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from raydistill.config.base import Cpus, Deadline, Gpus, Pool, Section


class LabelConfig(Pool):
    """What the network of `teacher` says of images: its own accuracy, and stored soft labels."""

    batch: Annotated[int, Field(ge=1, le=4096, description="images a batch, several views of them together")] = 50
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16"], Field(description="auto = bfloat16 on a GPU, float32 on the CPU")
    ] = "float32"


class ProtocolConfig(Section):
    """How a student is trained and tested: a protocol by name; null = what it prescribes."""

    name: Annotated[
        str, Field(description="hard | hard_cifar | dsa | rded | fkd | rd3: labels, optimiser, length, ...")
    ] = "hard"
    budget: Annotated[
        float, Field(gt=0, le=100, description="factor on the epochs, for small machines; results name it")
    ] = 1.0
    image_size: Annotated[int, Field(ge=8, le=512, description="pixels a side that the student sees")] = 32
    epochs: Annotated[int | None, Field(ge=1, description="instead of the protocol's epochs and the budget")] = None
    visits: Annotated[
        int | None, Field(ge=1, description="a length in images seen instead, the same for every set")
    ] = None
    batch: Annotated[int | None, Field(ge=1, le=65536, description="images a step; at most the whole set")] = None
    lr: Annotated[float | None, Field(gt=0, le=100, description="learning rate at the start")] = None
    weight_decay: Annotated[float | None, Field(ge=0, le=1)] = None
    crop_scale: Annotated[
        float | None, Field(gt=0, le=1, description="smallest area of a random resized crop; 1 = none")
    ] = None
    flip: Annotated[bool | None, Field(description="random horizontal flips")] = None
    jitter: Annotated[float | None, Field(ge=0, le=1, description="brightness, contrast, saturation: 1 +- this")] = None
    lighting: Annotated[float | None, Field(ge=0, le=1, description="deviation of PCA lighting")] = None
    patches: Annotated[int | None, Field(ge=1, le=16, description="patches a side that are shuffled; 1 = none")] = None
    cutmix: Annotated[float | None, Field(ge=0, le=1, description="probability of CutMix for a batch")] = None
    dsa: Annotated[
        bool | str | None,
        Field(description="true = IDC's DSA, or a strategy: color_crop_cutout_flip_scale_rotate is the published one"),
    ] = None
    zca: Annotated[
        bool | None, Field(description="whiten all images by the training images, as MTT does; to 64 px, hard labels")
    ] = None
    temperature: Annotated[float | None, Field(gt=0, description="of soft labels")] = None
    views: Annotated[
        int | None, Field(ge=1, le=10_000, description="stored labels an image (fkd); the epochs go through them")
    ] = None
    soft_labels: Annotated[
        int | None,
        Field(ge=1, le=10_000, description="so many stored labels an image in place of a teacher's of every batch"),
    ] = None
    bn_pass: Annotated[
        bool | None, Field(description="one more forward pass a step, for BatchNorm statistics, as RDED's script does")
    ] = None
    weighting: Annotated[
        Literal["loss", "sampling"] | None,
        Field(description="weights of images multiply their loss, or images are drawn in proportion to them"),
    ] = None
    evaluations: Annotated[
        int | None, Field(ge=1, le=1000, description="times the student is tested; best and last are reported")
    ] = None


class EvaluateConfig(Section):
    students: Annotated[
        list[str] | None,
        Field(min_length=1, description="students to train; timm:NAME for one of timm's models; null = the protocol's"),
    ] = None
    width: Annotated[
        int, Field(ge=8, le=1024, description="channels of the convnet; 128 = every student as wide as in the papers")
    ] = 64
    images: Annotated[
        str | None,
        Field(description="folder of images to judge in place of a method's; jobs/evaluate.py --images sets it"),
    ] = None
    seeds: Annotated[int, Field(ge=1, le=100, description="training seeds a student")] = 3
    baselines: Annotated[list[str], Field(description="methods evaluated beside, at the same IPC")] = ["random"]
    full: Annotated[bool, Field(description="also train on the whole training split: the bound")] = False
    full_epochs: Annotated[
        int | None,
        Field(ge=1, description="also train the bound for so many epochs, beside as many image visits as the sets"),
    ] = None
    redundancy_parts: Annotated[
        int | None,
        Field(
            ge=0,
            le=100,
            description="also cut each set into so many parts and train a student on each: redundancy; 0 = none; "
            "null = a set that grew is cut into its increments, if these are at most 10 and labels hard",
        ),
    ] = None
    keep_weights: Annotated[
        bool, Field(description="keep trained students, a file each in classifiers: each can be a teacher.path")
    ] = False
    workers: Annotated[int, Field(ge=0, le=1024, description="Ray Train workers; 0 = one a CPU core or GPU")] = 0
    num_cpus: Annotated[Cpus, Field(gt=0, description="CPUs each worker reserves")] = 1.0
    num_gpus: Annotated[Gpus, Field(description="GPUs each worker reserves")] = 0.0
    threads: Annotated[int, Field(ge=1, le=256, description="torch threads a worker")] = 1
    device: Annotated[
        Literal["auto", "cpu", "cuda"], Field(description="auto = the GPU that was reserved, otherwise the CPU")
    ] = "auto"
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16"],
        Field(description="of students' arithmetic; weights and losses stay float32; auto = bfloat16 on a GPU"),
    ] = "float32"
    deadline_s: Annotated[Deadline, Field(description="longest time without a finished training")] = 7200.0
    protocol: ProtocolConfig = ProtocolConfig()

    @model_validator(mode="after")
    def _parts_are_several(self) -> EvaluateConfig:
        if self.redundancy_parts == 1:
            raise ValueError("evaluate.redundancy_parts=1 cuts nothing; give 2 or more, or 0 for none")
        return self

    @model_validator(mode="after")
    def _no_network_of_whitened_images(self) -> EvaluateConfig:
        if self.keep_weights and self.protocol.zca:
            raise ValueError(
                "evaluate.keep_weights and evaluate.protocol.zca: a network that is kept takes images as they are; "
                "leave out one"
            )
        return self
