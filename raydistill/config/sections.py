"""The sections of the configuration: every key with its type, range, default and meaning."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from raydistill.config.base import Cpus, Deadline, Pool, Section, Seed
from raydistill.config.evaluation import EvaluateConfig, LabelConfig
from raydistill.config.pretrain import PretrainConfig
from raydistill.config.sampling import (
    AdaptiveConfig,
    GuidanceConfig,
    ManifoldConfig,
    PathConfig,
    SamplerConfig,
    StartConfig,
)
from raydistill.config.source import SourceConfig
from raydistill.config.text import write
from raydistill.config.tracking import TrackingConfig
from raydistill.config.tune import TuneConfig


class VaeConfig(Section):
    path: Annotated[
        str | None, Field(description="diffusers directory of the VAE, or OWNER/NAME on the Hugging Face hub")
    ] = None
    revision: Annotated[str | None, Field(description="branch, tag or commit of it on the hub; null = main")] = None


class EncodeConfig(Pool):
    chunk: Annotated[int, Field(ge=1, le=4096, description="images a chunk, the unit of commit")] = 256
    batch: Annotated[int, Field(ge=1, le=1024, description="images a micro-batch; the last one is padded")] = 32


class GroupConfig(Section):
    buckets: Annotated[int, Field(ge=1, le=256, description="class buckets (at most one a class)")] = 32


class ClusterConfig(Section):
    algorithm: Annotated[
        str | None,
        Field(
            description="kmeans | clvq | minibatch | divisive | agglomerative, or one's own; null = what the method "
            "prescribes"
        ),
    ] = None
    iterations: Annotated[int, Field(ge=1, le=1000, description="largest number of Lloyd iterations")] = 100
    restarts: Annotated[int, Field(ge=1, le=100, description="k-means++ starts; the lowest SSE is kept")] = 3
    leaves: Annotated[
        int, Field(ge=1, le=100_000, description="divisive: leaves of every tree (at most the distinct latents)")
    ] = 200
    split: Annotated[
        Literal["sse", "variance", "size"], Field(description="divisive: what the leaf that is split next has most of")
    ] = "sse"
    split_restarts: Annotated[int, Field(ge=1, le=100, description="divisive: k-means++ starts a split")] = 10
    linkage: Annotated[
        Literal["ward", "average", "complete", "single"], Field(description="agglomerative: distance of two clusters")
    ] = "ward"
    batch: Annotated[
        int | None,
        Field(
            ge=1,
            le=100_000,
            description="clvq: points given to the atoms at a time; null = ten an atom, which keeps their cells even",
        ),
    ] = None
    passes: Annotated[int, Field(ge=1, le=1000, description="clvq: how often the stream of points is seen")] = 1
    expand: Annotated[int, Field(ge=1, le=1000, description="minibatch: a batch is this times ipc points")] = 1
    drop_last: Annotated[
        bool, Field(description="minibatch: lose what is left when a class ends, as D4M's release does")
    ] = False
    num_cpus: Annotated[Cpus, Field(gt=0, description="CPUs each clustering task reserves")] = 1.0
    memory_mb: Annotated[
        int, Field(ge=256, description="a class whose latents take more than a quarter of it is shared out over tasks")
    ] = 1024
    deadline_s: Annotated[Deadline, Field(description="longest wait for one bucket of classes")] = 3600.0


class HierarchyConfig(Section):
    """Which prototypes fill the slots. A tree has more nodes than slots: all but `representative` is for trees."""

    selection: Annotated[
        Literal["levels", "leaves", "release"],
        Field(description="levels: a node of each level, then leaves (paper); leaves; release: leaves in its order"),
    ] = "levels"
    start_level: Annotated[
        int | None, Field(ge=0, description="level at which the walk starts, 0 = root; null = floor(log2 ipc)")
    ] = None
    walk: Annotated[
        Literal["largest", "random"], Field(description="levels: the node taken of each level on the way to the root")
    ] = "largest"
    factor: Annotated[
        int, Field(ge=1, le=1000, description="levels: the walk is in the tree of factor x ipc leaves")
    ] = 4
    representative: Annotated[
        Literal["centroid", "medoid"], Field(description="mean of a cluster, or the latent of the image nearest it")
    ] = "centroid"


class GeneratorConfig(Section):
    path: Annotated[
        str | None,
        Field(
            description=(
                "diffusers directory holding transformer/ and scheduler/, or a pipeline of Stable Diffusion, or "
                "OWNER/NAME; train = one is trained first, by section pretrain"
            )
        ),
    ] = None
    revision: Annotated[str | None, Field(description="branch, tag or commit of it on the hub; null = main")] = None
    objective: Annotated[
        Literal["flow", "epsilon", "v"] | None,
        Field(
            description=(
                "what it predicts: the velocity of the linear path, the noise, or v; null = what the checkpoint "
                "says, and pretrain from scratch learns epsilon"
            )
        ),
    ] = None
    prompt: Annotated[
        str, Field(description="what Stable Diffusion is asked of a class; {name} = its name, from classes.json")
    ] = "{name}"
    negative_prompt: Annotated[
        str, Field(description="what its classifier-free guidance leads away from, in place of nothing (D4M's)")
    ] = "cartoon, anime, painting"


class ClassifierConfig(Section):
    """A pretrained classifier. `classes` is a list of ids in the order of its columns, or the name of a class list."""

    path: Annotated[
        str | None, Field(description="FILE.safetensors, or a folder with config.json and model.safetensors")
    ] = None
    architecture: Annotated[
        str | None,
        Field(description="a registered network, timm:NAME or torchvision:NAME; null = what config.json says"),
    ] = None
    classes: Annotated[
        list[str] | str | None,
        Field(description="its class ids in order, or the name of a list that ships; null = what config.json says"),
    ] = None
    image_size: Annotated[
        int | None, Field(ge=8, le=1024, description="pixels a side that it sees; null = its own")
    ] = None


class EmbedConfig(Pool):
    """Features of the training images, by the network of `features`."""

    batch: Annotated[int, Field(ge=1, le=4096, description="images a batch; the last one is padded")] = 50
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16"], Field(description="auto = bfloat16 on a GPU, float32 on the CPU")
    ] = "float32"
    deadline_s: Annotated[Deadline, Field(description="longest wait for one class bucket")] = 7200.0


class MetricsConfig(Section):
    """How each distilled set stands beside the real images, by the network of `features` or in latents."""

    names: Annotated[list[str], Field(description="metrics to compute (docs/metrics.md); [] = none")] = [
        "fid",
        "mmd",
        "l2",
        "prdc",
        "representativeness",
        "diversity",
    ]


class SelectionConfig(Section):
    """What methods that choose among the images of a class compare them by."""

    space: Annotated[
        Literal["latent", "feature"],
        Field(description="herding, kcenter: compare latents, or features by the network of features.path"),
    ] = "latent"


class WeightsConfig(Section):
    """What the images of a set weigh in the loss, of the masses of their prototypes."""

    mode: Annotated[
        Literal["uniform", "density", "sqrt", "power"] | None,
        Field(
            description=(
                "uniform: all the same; density: the images of its cluster; sqrt: their root; power: to gamma; "
                "null = what the method prescribes"
            )
        ),
    ] = None
    norm: Annotated[
        Literal["mean", "sum", "inv_sqrt_k"],
        Field(
            description=(
                "mean: 1 in each class, as without weights; sum: 1 in each class, as the objective is printed; "
                "inv_sqrt_k: mean 1 / sqrt(ipc), as DDOQ is said to have it"
            )
        ),
    ] = "mean"
    gamma: Annotated[float | None, Field(ge=0, le=8, description="exponent of the masses, for weights.mode=power")] = (
        None
    )


class SampleConfig(Pool):
    batch: Annotated[int, Field(ge=1, le=4096, description="slots a batch, the unit of commit")] = 20


class RayConfig(Section):
    address: Annotated[str | None, Field(description="cluster to join; null = RAY_ADDRESS, otherwise a local one")] = (
        None
    )
    num_cpus: Annotated[
        int, Field(ge=0, le=4096, description="logical CPUs of a local cluster; 0 = cores, at least 4")
    ] = 0
    object_store_mb: Annotated[int, Field(ge=80, description="object store of a local cluster")] = 512
    nodes_deadline_s: Annotated[
        Deadline, Field(description="longest wait for a node's proof that it sees run_dir, source and weights")
    ] = 120.0
    recompute: Annotated[
        float, Field(ge=0, le=1, description="share of the units of pools that a second worker computes for comparison")
    ] = 0.0
    share: Annotated[
        float, Field(gt=0, le=1, description="of the cluster that is joined, what this job's workers take at most")
    ] = 1.0


class SeedsConfig(Section):
    """How often each set is drawn. One draw is a set; a method is judged over several."""

    generation: Annotated[
        int, Field(ge=1, le=100, description="generation seeds, from `seed` on: sets of all are trained on in one fit")
    ] = 1


class Config(Section):
    method: Annotated[str, Field(description="what makes the images (listed above); auto = mgd3 or kmeans")] = "mgd3"
    ipc: Annotated[int, Field(ge=1, le=100_000, description="images per class")] = 10
    seed: Annotated[Seed, Field(description="generation seed")] = 0
    run_dir: Annotated[
        str | None, Field(description="where everything goes; null = runs/NAME; path, s3:// or gs://")
    ] = None
    artifact_dir: Annotated[str | None, Field(description="stage outputs shared by several runs; null = run_dir")] = (
        None
    )
    seeds: SeedsConfig = SeedsConfig()
    source: SourceConfig = SourceConfig()
    vae: VaeConfig = VaeConfig()
    encode: EncodeConfig = EncodeConfig()
    group: GroupConfig = GroupConfig()
    cluster: ClusterConfig = ClusterConfig()
    hierarchy: HierarchyConfig = HierarchyConfig()
    generator: GeneratorConfig = GeneratorConfig()
    sampler: SamplerConfig = SamplerConfig()
    start: StartConfig = StartConfig()
    guidance: GuidanceConfig = GuidanceConfig()
    manifold: ManifoldConfig = ManifoldConfig()
    path: PathConfig = PathConfig()
    adaptive: AdaptiveConfig = AdaptiveConfig()
    sample: SampleConfig = SampleConfig()
    weights: WeightsConfig = WeightsConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    teacher: ClassifierConfig = ClassifierConfig()
    label: LabelConfig = LabelConfig()
    pretrain: PretrainConfig = PretrainConfig()
    features: ClassifierConfig = ClassifierConfig()
    embed: EmbedConfig = EmbedConfig()
    selection: SelectionConfig = SelectionConfig()
    metrics: MetricsConfig = MetricsConfig()
    ray: RayConfig = RayConfig()
    tracking: TrackingConfig = TrackingConfig()
    tune: TuneConfig = TuneConfig()
    brought: Annotated[dict[str, Section], Field(exclude=True)] = {}  # sections of entries from elsewhere, by their key

    @model_validator(mode="after")
    def _window_is_a_window(self) -> Config:
        if self.guidance.start <= self.guidance.stop:
            raise ValueError(
                f"guidance.start={self.guidance.start} must be above guidance.stop={self.guidance.stop} "
                "(1 = pure noise, 0 = image)"
            )
        return self

    def section(self, key: str, kind: type[Section]) -> Section:
        """A section by its key: one of those above, or one that an entry brought with it."""
        return getattr(self, key) if key in type(self).model_fields else self.brought.get(key, kind())

    def tree(self) -> dict[str, Any]:
        tree = self.model_dump(mode="json", exclude={"brought"})
        return tree | {key: section.model_dump(mode="json") for key, section in self.brought.items()}

    def yaml(self) -> str:
        """Canonical text: sorted keys."""
        return write(self.tree())
