"""Keys that a verb would not read: given on its command line they are refused, since nothing would come of them.

What a preset or a file holds is for all verbs. So are the keys of later stages: `encode` keeps them in the run's
config.yaml, from which `evaluate --run` takes them.
"""

from __future__ import annotations

from collections.abc import Sequence

from raydistill.config.sections import Config
from raydistill.errors import BadInput

SIZES = ("layers", "heads", "head_dim", "patch")  # of a generator from scratch
BOTH = (
    *("ray", "source", "seed", "tracking"),
    *(
        f"pretrain.{k}"
        for k in "target out init trainable steps batch workers num_gpus lr checkpoint_every ema threads".split()  # noqa: SIM905
    ),
)
VAE = (*BOTH, *(f"pretrain.{k}" for k in ("kl_weight", "latent_channels", "vae_channels")))
GENERATOR = (
    *BOTH,
    *("artifact_dir", "vae", "encode", "generator.objective"),
    *("sampler.cfg_scale", "sampler.cfg_channels"),  # of the validation's grids, whose steps are always the same
    *(f"pretrain.{k}" for k in ("dtype", "time", "validate_every", "label_dropout")),
)


TRAIN = "train"  # generator.path of runs that train one first
OF_ITSELF = ("pretrain.out", "pretrain.target")  # what such a run decides

SEEDS = " (tune.seeds and tune.final_seeds say how often a candidate is drawn and trained on)"
SETS = " (a sweep compares settings with the configuration as it is)"
OF_ONE_RUN = {
    "evaluate.seeds": SEEDS,
    "seeds.generation": SEEDS,
    "evaluate.baselines": SETS,
    "evaluate.full": SETS,
    "evaluate.full_epochs": SETS,
    "evaluate.images": SETS,
    "evaluate.redundancy_parts": " (it trains on whole sets)",
    "evaluate.keep_weights": " (it keeps no students)",
}

SHORTER = ("evaluate.protocol.epochs", "evaluate.protocol.budget")  # lengths of trainings that another may replace
STEPS = ("encode", "cluster", "plan", "sample", "evaluate")
READ_FROM = {  # the first step that reads a section; a section that an entry brings is read by the plan
    **dict.fromkeys(("run_dir", "artifact_dir", "source", "vae", "encode", "ray", "tracking"), "encode"),
    **dict.fromkeys(("method", "ipc", "seed", "group", "cluster", "hierarchy"), "cluster"),
    **dict.fromkeys(("sample", "weights"), "sample"),
    **dict.fromkeys(("evaluate", "teacher", "label", "metrics", "seeds"), "evaluate"),
}


def keys(overrides: Sequence[str]) -> list[str]:
    """The keys of `key=value` overrides."""
    return [o.partition("=")[0] for o in overrides]


def check(verb: str, command_keys: Sequence[str], config: Config) -> None:
    """Raises BadInput for the first of the keys `command_keys` that the verb never reads."""
    for key in command_keys:
        if verb != "pretrain" and key.partition(".")[0] == "pretrain" and not training_first(key, config):
            raise BadInput(f"{key}: {verb} does not read it, pretrain does; leave it out")
        if verb != "tune" and key.partition(".")[0] == "tune":
            raise BadInput(f"{key}: {verb} does not read it, tune does; leave it out")
        if verb != "tune" and key == "tracking.trainings":
            raise BadInput(f"{key}: {verb} does not read it, tune does; leave it out")
        if verb != "pretrain" and (length := length_before(key, config)):
            remedy = f"leave it out, or give {length.partition('=')[0]}=null as well"
            raise BadInput(f"{key}: {length} says how long a student is trained; {remedy}")
        if verb == "tune" and key in OF_ONE_RUN:
            raise BadInput(f"{key}: tune does not read it{OF_ONE_RUN[key]}; leave it out")
        if verb == "pretrain" and not pretraining(key, config):
            raise BadInput(f"{key}: {_doing(config)} does not read it{_instead(key)}; leave it out")


def reads(verb: str, key: str, config: Config) -> bool:
    """Whether the verb reads the key, for --help-all: one of a later step is kept, and not read."""
    try:
        check(verb, [key], config)
    except BadInput:
        return False
    if verb not in STEPS:
        return True
    step = READ_FROM.get(key.partition(".")[0], "plan")
    return STEPS.index(step) <= STEPS.index(verb)


def length_before(key: str, config: Config) -> str | None:
    """What says how long a student is trained in place of this key: visits before epochs before the budget."""
    p = config.evaluate.protocol
    longer = {"evaluate.protocol.visits": p.visits, "evaluate.protocol.epochs": p.epochs}
    if key not in SHORTER:
        return None
    asked_for = longer.pop(key) is not None if key in longer else p.budget != 1
    return next((f"{k}={v}" for k, v in longer.items() if v is not None), None) if asked_for else None


def pretraining(key: str, config: Config) -> bool:
    """Whether the training that the configuration asks for reads the key, or a part of it if it is a section."""
    p = config.pretrain
    read: tuple[str, ...] = VAE if p.target == "vae" else GENERATOR
    if p.target == "generator" and p.init is None:
        read = (*read, *(f"pretrain.{k}" for k in SIZES))
    elif p.target == "generator":
        read = (*read, "pretrain.class_map")
    return any(key == r or key.startswith(f"{r}.") or r.startswith(f"{key}.") for r in read)


def training_first(key: str, config: Config) -> bool:
    """Whether a run that trains its generator first reads the key."""
    if config.generator.path != TRAIN or key in OF_ITSELF:
        return False
    sections = [config.pretrain.model_copy(update={"target": target}) for target in ("vae", "generator")]
    return any(pretraining(key, config.model_copy(update={"pretrain": section})) for section in sections)


def _doing(config: Config) -> str:
    p = config.pretrain
    return "pretrain" + (f" with pretrain.target={p.target}" if p.init is None else " with pretrain.init")


def _instead(key: str) -> str:
    return {
        "run_dir": " (it writes to pretrain.out)",
        "generator.path": " (pretrain.init is what it fine-tunes)",
    }.get(key, "")
