"""Keys that a verb would not read are refused on its command line, with the verb or the choice that reads them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from running import write_digits
from samples import write_student

from raydistill import cli
from raydistill.config import Config, leaves, load, reads
from raydistill.errors import BadInput
from raydistill.pretraining.output import command
from raydistill.pretraining.plan import READ
from raydistill.tune import sweep

Refused = Callable[..., str]
ROOT = Path(__file__).parents[1]


def documented() -> list[list[str]]:
    """Every command of the README, the pages and the presets: the verb, then its words."""
    files = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "raydistill" / "presets").glob("*.yaml")]
    text = "\n".join(f.read_text().replace("\\\n", " ") for f in files)
    commands = re.findall(r"(?:python jobs/(\w+)\.py|(?<=`)raydistill (\w+)) ([^`\n#]*)", text)
    return [[job or verb, *shlex.split(words)] for job, verb, words in commands if (job or verb) in cli.VERBS]


def test_every_documented_command_gives_only_keys_that_are_read() -> None:
    commands = documented()
    assert len(commands) > 15 and {"distill", "evaluate", "pretrain"} <= {c[0] for c in commands}
    for verb, *words in commands:
        pairs = [w for w in words if re.fullmatch(r"[a-z_.]+=\S+", w) and "..." not in w]
        overrides = [cli._long(o) if verb == "evaluate" else o for o in pairs]
        overrides = [
            o for o in overrides if o.partition(".")[0].partition("=")[0] in Config.model_fields
        ]  # not an example's own
        config = load("quickstart", [o for o in overrides if not o.startswith("pretrain.steps")])
        reads.check(verb, reads.keys(overrides), config)


class TestVerbs:
    @pytest.mark.parametrize("verb", ["distill", "encode", "cluster", "plan", "sample", "evaluate", "report"])
    @pytest.mark.parametrize("key", ["pretrain.out=x", "pretrain.steps=5"])
    def test_only_pretrain_pretrains(self, refused: Refused, verb: str, key: str) -> None:
        assert f"{key.partition('=')[0]}: {verb} does not read it, pretrain does" in refused(verb, key)

    @pytest.mark.parametrize(
        ("overrides", "says"),
        [
            (["run_dir=x"], "run_dir: pretrain with pretrain.target=generator does not read it (it writes to pretrain"),
            (["generator.path=x"], "(pretrain.init is what it fine-tunes); leave it out"),
            (["evaluate.seeds=5"], "evaluate.seeds: pretrain with pretrain.target=generator does not read it; leave"),
            (["method=dit"], "method: pretrain"),
            (["ipc=5"], "ipc: pretrain"),
            (["teacher.path=x"], "teacher.path: pretrain"),
            (["pretrain.target=vae", "pretrain.layers=3"], "pretrain.layers: pretrain with pretrain.target=vae does"),
            (["pretrain.target=vae", "vae.path=x"], "vae.path: pretrain with pretrain.target=vae does"),
            (["pretrain.latent_channels=8"], "pretrain.latent_channels: pretrain with pretrain.target=generator"),
            (["sampler.steps=5"], "sampler.steps: pretrain with pretrain.target=generator does not read it; leave"),
            (["sampler.name=ddim"], "sampler.name: pretrain"),
            (["sampler.grid=leading"], "sampler.grid: pretrain"),
            (["pretrain.init=x", "pretrain.heads=3"], "pretrain.heads: pretrain with pretrain.init does not read it"),
        ],
    )
    def test_pretrain_reads_what_its_target_needs(self, refused: Refused, overrides: list[str], says: str) -> None:
        assert says in refused("pretrain", "pretrain.out=o", *overrides)

    def test_pretrain_draws_its_grids_with_the_samplers_guidance(self) -> None:
        keys = ["sampler.cfg_scale", "sampler.cfg_channels"]
        reads.check("pretrain", keys, load("quickstart", ["pretrain.target=generator"]))

    @pytest.mark.parametrize("target", READ)
    def test_what_names_a_training_is_read_by_it(self, target: str) -> None:
        config = load("quickstart", [f"pretrain.target={target}", *(["pretrain.init=x"] if target != "vae" else [])])
        assert all(reads.pretraining(f"pretrain.{k}", config) for k in READ[target])

    def test_the_command_that_repeats_a_training_is_accepted(self) -> None:
        """Whatever a file had beside what the training reads."""
        config = load("cifar10", ["pretrain.target=vae", "pretrain.layers=3", "pretrain.out=o", "source.path=x"])
        assert "pretrain.layers" not in command(config) and "pretrain.out=o" in command(config)
        reads.check("pretrain", reads.keys(shlex.split(command(config))[2:]), config)

    def test_a_key_of_a_later_stage_is_for_evaluate_run(self) -> None:
        for key, _ in leaves(Config):
            if not key.startswith(("pretrain.", "tune.", "tracking.trainings")):
                reads.check("encode", [key], load())

    @pytest.mark.parametrize("other", [["--config", "nette128"], ["run_dir=elsewhere"]])
    def test_a_run_is_named_once(self, refused: Refused, tmp_path: Path, other: list[str]) -> None:
        (tmp_path / "old").mkdir()
        (tmp_path / "old" / "config.yaml").write_text(load().yaml())
        assert "exclude each other" in refused("evaluate", "--run", str(tmp_path / "old"), *other)


class TestNobodyAsks:
    @pytest.mark.parametrize("verb", ["distill", "evaluate", "sample", "encode"])
    def test_hard_labels_have_no_teacher(self, refused: Refused, tmp_path: Path, verb: str) -> None:
        for key in (f"teacher.path={tmp_path / 'none'}", "label.batch=3", "teacher.classes=imagenette"):
            line = refused(verb, key)
            assert f"{key.partition('=')[0]}: evaluate.protocol.name=hard trains on hard labels" in line
        line = refused("distill", "teacher.path=gone", "evaluate.protocol.name=fkd")
        assert line.startswith("error: teacher.path: ") and "hard labels" not in line, "it is read now"

    @pytest.mark.parametrize("verb", ["distill", "evaluate", "tune"])
    @pytest.mark.parametrize("key", ["epochs=3", "budget=0.1"])
    def test_a_length_of_trainings_is_one(self, refused: Refused, verb: str, key: str) -> None:
        said = refused(verb, f"evaluate.protocol.{key}")
        assert f"{key.partition('=')[0]}: evaluate.protocol.visits=4000 says how long a student is trained" in said
        remedied = ["evaluate.protocol.visits=null", f"evaluate.protocol.{key}"]
        reads.check(verb, reads.keys(remedied), load("quickstart", remedied))
        both = ["evaluate.protocol.epochs=3", "evaluate.protocol.budget=0.1", remedied[0]]
        assert "budget: evaluate.protocol.epochs=3 says how long" in refused(verb, *both)

    @pytest.mark.parametrize("key", ["temperature=3", "views=4"])
    def test_hard_labels_have_no_numbers_of_soft_ones(self, refused: Refused, key: str) -> None:
        said = refused("distill", f"evaluate.protocol.{key}")
        assert "evaluate.protocol.name=hard trains on hard labels; leave it out" in said

    def test_views_are_of_labels_that_are_stored(self, refused: Refused, tmp_path: Path) -> None:
        teacher = f"teacher.path={write_student(tmp_path / 'teacher')}"
        words = ["evaluate.protocol.views=4", teacher, "source.classes=[3,7]"]
        assert "views: evaluate.protocol.name=rded stores no labels" in refused(
            "distill", "evaluate.protocol.name=rded", *words
        )

    def test_a_sweep_over_protocols_has_the_teacher_that_they_ask(self, refused: Refused, tmp_path: Path) -> None:
        knob = "tune.space.evaluate.protocol.name=[hard,fkd]"
        assert "fkd trains on a teacher's labels; give evaluate.protocol.name=fkd teacher.path=FILE" in refused(
            "tune", knob
        )
        teacher = f"teacher.path={write_student(tmp_path / 'teacher')}"
        sweep.planned(load("quickstart", [knob, "evaluate.protocol.name=fkd", teacher, "source.classes=[3,7]"]))

    @pytest.mark.parametrize(
        ("other", "theirs"), [("rded", "convnet_bn, resnet18_bn"), ("fkd", "resnet18_bn"), ("rd3", "resnet18_bn")]
    )
    def test_protocols_are_compared_by_the_same_students(self, tmp_path: Path, other: str, theirs: str) -> None:
        """Each has its own where nobody names any: as many of another architecture, or more of them."""
        teacher = f"teacher.path={write_student(tmp_path / 'teacher')}"
        words = [f"tune.space.evaluate.protocol.name=[hard,{other}]", f"evaluate.protocol.name={other}", teacher]
        words += ["source.classes=[3,7]", "evaluate.students=null"]
        with pytest.raises(BadInput, match=f"hard trains convnet, and {other} {theirs}, which cannot be comp") as line:
            sweep.planned(load("quickstart", words))
        remedy = re.findall(r"evaluate\.students=\S+\]", str(line.value))
        sweep.planned(load("quickstart", [*words[:-1], *remedy]))

    def test_features_that_nothing_asks_for(self, refused: Refused, tmp_path: Path) -> None:
        network = write_student(tmp_path / "network")
        words = ["distill", f"features.path={network}", "encode.num_gpus=9"]
        assert "features.path: nothing here asks for features" in refused(*words, "metrics.names=[]")
        assert "features.image_size: nothing here asks" in refused("distill", "features.image_size=32")
        for asks in (["metrics.names=[fid]"], ["metrics.names=[]", "method=herding", "selection.space=feature"]):
            assert "encode.num_gpus=9 need more" in refused(*words, *asks), "it is read now"

    def test_what_a_file_holds_is_for_all_verbs(self, refused: Refused, tmp_path: Path) -> None:
        (tmp_path / "c.yaml").write_text("teacher: {path: gone}\npretrain: {out: o}\nlabel: {batch: 3}\n")
        line = refused("encode", "--config", str(tmp_path / "c.yaml"), "encode.num_gpus=9")
        assert "encode.num_gpus=9 need more" in line


class TestKnobs:
    """What a run refuses on its command line is no knob of a sweep either."""

    @pytest.mark.parametrize(
        ("words", "says", "remedied"),
        [
            (
                ["cluster.leaves=[100,200]"],
                "cluster.leaves: what clusters here (kmeans) does not read it; leave it out, or choose cluster.algorit",
                [["cluster.algorithm=divisive"], ["tune.space.cluster.algorithm=[null,divisive]"]],
            ),
            (
                ["weights.norm=[mean,sum]"],
                "weights.norm: no weights.mode is given, and mgd3 prescribes none; leave it out",
                [["weights.mode=sqrt"], ["tune.space.weights.mode=[null,sqrt]"], ["method=ddoq"]],
            ),
            (
                ["weights.gamma=uniform(0.1,2)"],
                "weights.gamma=0.1 is for weights.mode=power, not for none",
                [["weights.mode=power", "weights.gamma=1"], ["tune.space.weights.mode=[power]"]],
            ),
            (
                ["evaluate.protocol.temperature=[1.0,2.0]"],
                "evaluate.protocol.temperature: evaluate.protocol.name=hard",
                [],
            ),
            (
                ["lgd.reference_epochs=[5,10]", "method=lgd", "learnability.omega=0", "lgd.omega=0"],
                "lgd.reference_epochs: a reference of weight 0 is not asked",
                [["learnability.omega=1"], ["tune.space.learnability.omega=uniform(0,1)"]],
            ),
            (["cluster.deadline_s=[10.0,20.0]"], "cluster.deadline_s: it says with how much is computed", []),
            (["cluster.num_cpus=[1.0,2.0]"], "cluster.num_cpus: it says with how much is computed", []),
            (["cluster.memory_mb=[1000,2000]"], "cluster.memory_mb: it says with how much is computed", []),
        ],
    )
    def test_a_knob_that_no_trial_reads_is_refused(
        self, words: list[str], says: str, remedied: list[list[str]]
    ) -> None:
        """Unless what decides it is another value, or a knob as well."""
        words = [f"tune.space.{words[0]}", *words[1:], "source.classes=[3,7]"]
        with pytest.raises(BadInput, match=re.escape(f"tune.space.{says}")):
            sweep.planned(load("quickstart", words))
        for more in remedied:
            sweep.planned(load("quickstart", [*words, *more]))

    @pytest.mark.parametrize("method", ["mgd3", "pgfm", "manifoldgd", "ddoq", "lgd", "dit"])
    def test_what_a_method_declares_is_read(self, method: str) -> None:
        sweep.planned(load("quickstart", [f"method={method}", "source.classes=[3,7]"]))


class TestSectionsOfMethods:
    @pytest.mark.parametrize(
        ("words", "who"),
        [
            (["method=dit", "guidance.scale=3"], "guidance.scale: method dit"),
            (["path.t0=0.2"], "path.t0: method mgd3"),
            (["lgd.increment=1"], "lgd.increment: method mgd3"),
            (["learnability.scale=1"], "learnability.scale: method mgd3"),
            (["manifold.kernel=imq"], "manifold.kernel: method mgd3"),
            (["adaptive.rtol=0.1"], "adaptive.rtol: method mgd3"),
            (["method=kmeans", "evaluate.baselines=[random]", "sampler.steps=9"], "sampler.steps: method kmeans"),
            (["method=kmeans", "evaluate.baselines=[d4m]", "start.strength=0.5"], "start.strength: method kmeans"),
            (["method=dit", "evaluate.baselines=[ddoq]", "cluster.algorithm=clvq"], "cluster.algorithm: method dit"),
            (["method=dit", "evaluate.baselines=[mgd3]", "guidance.form=mean"], "guidance.form: method dit"),
        ],
    )
    def test_nobody_reads_are_refused_and_the_remedy_reads_them(
        self, refused: Refused, words: list[str], who: str
    ) -> None:
        said = refused("distill", *words)
        assert f"{who} does not read it, and no set beside it does; leave it out, or choose" in said
        (remedy,) = re.findall(r"\(((?:method|sampler\.name)=\w+)\)", said)
        words = [w for w in words if not w.startswith("method=")]
        words += ["method=pgfm"] if remedy.startswith("sampler") else []
        assert "does not read it" not in refused("distill", remedy, *words, "encode.num_gpus=9")

    def test_what_a_set_beside_it_reads_is_accepted(self, refused: Refused) -> None:
        words = ["method=dit", "guidance.scale=0.3", "encode.num_gpus=9"]
        assert "encode.num_gpus=9 need more" in refused("distill", *words, "evaluate.baselines=[mgd3]")

    @pytest.mark.parametrize(
        ("words", "remedy"),
        [
            (["method=ddoq", "cluster.expand=2"], "cluster.algorithm=minibatch"),
            (["method=ddoq", "cluster.drop_last=true"], "cluster.algorithm=minibatch"),
            (["method=d4m", "cluster.batch=2"], "cluster.algorithm=clvq"),
            (["method=mgd3", "cluster.linkage=single"], "cluster.algorithm=agglomerative"),
            (["method=mgd3", "hierarchy.selection=leaves"], "cluster.algorithm=divisive"),
        ],
    )
    def test_a_key_of_another_clustering_is_refused_and_the_remedy_reads_it(
        self, refused: Refused, words: list[str], remedy: str
    ) -> None:
        words = [*words, "evaluate.baselines=[random]"]
        assert f"does not read it; leave it out, or choose {remedy}" in refused("distill", *words)
        assert "encode.num_gpus=9 need more" in refused("distill", *words, remedy, "encode.num_gpus=9")

    def test_the_norm_of_weights_is_read_where_a_set_beside_it_has_some(self, refused: Refused) -> None:
        words = ["method=dit", "weights.norm=sum", "encode.num_gpus=9"]
        assert "weights.norm: no weights.mode is given" in refused("distill", *words)
        assert "encode.num_gpus=9 need more" in refused("distill", *words, "evaluate.baselines=[ddoq]")

    def test_keys_of_a_judged_folder_s_images_are_refused_and_the_remedies_work(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """What nobody here makes begins nowhere, and images without prototypes have no masses."""
        words = ["evaluate", "--images", str(write_digits(tmp_path / "mine", train=1)), "--dry-run"]
        assert cli.main([*words, "start.strength=0.5", "evaluate.baselines=[d4m]"]) == 2
        said = capsys.readouterr().err.strip().splitlines()[-1]
        assert said.endswith("start.strength: no set beside the images of mine reads it; leave it out")
        assert cli.main([*words, "weights.mode=density"]) == 2
        said = capsys.readouterr().err.strip().splitlines()[-1]
        assert said.endswith("choose weights.mode=uniform, or leave it out for the weights beside its images")
        assert cli.main([*words, "weights.mode=uniform"]) == cli.main([*words, "evaluate.baselines=[d4m]"]) == 0

    def test_what_another_method_of_a_sweep_reads_is_accepted(self, refused: Refused) -> None:
        words = ["tune.space.method=[mgd3,pgfm]", "tune.space.sampler.steps=[10]", "path.t0=0.2", "encode.num_gpus=9"]
        assert "encode.num_gpus=9 need more" in refused("tune", *words)
