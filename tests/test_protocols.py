"""Protocols: the values that the field has fixed, what the configuration may change, optimisers and schedules."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from raydistill import registry
from raydistill.config import EvaluateConfig, ProtocolConfig, build, load
from raydistill.errors import BadInput
from raydistill.evaluation.geometry import draw_patches
from raydistill.evaluation.optimiser import optimiser, set_rate
from raydistill.evaluation.recipe import Recipe, Setting, describe, resolve, students_of, title
from raydistill.stages.evaluation.trainings import decay


def recipe(ipc: int = 10, classes: int = 10, student: str = "convnet", **more: Any) -> Recipe:
    return resolve(ProtocolConfig(**more), Setting(ipc, classes, 224, student))


class TestHard:
    @pytest.mark.parametrize(
        ("ipc", "epochs"),
        [(1, 3000), (2, 2000), (10, 2000), (11, 1500), (50, 1500), (100, 1000), (200, 1000), (500, 500), (501, 300)],
    )
    def test_epochs_by_images_per_class(self, ipc: int, epochs: int) -> None:
        assert recipe(ipc).epochs == epochs and recipe(ipc).visits == epochs * ipc * 10

    @pytest.mark.parametrize(("ipc", "epochs"), [(1, 2000), (10, 1300), (50, 1000), (100, 600), (500, 300)])
    def test_exactly_100_classes_take_two_thirds(self, ipc: int, epochs: int) -> None:
        assert recipe(ipc, 100).epochs == epochs and recipe(ipc, 101).epochs > epochs

    def test_more_than_100_classes_learn_faster(self) -> None:
        few, many = recipe(classes=100), recipe(classes=1000)
        assert (few.lr, few.weight_decay, few.batch) == (0.01, 5e-4, 64)
        assert (many.lr, many.weight_decay, many.batch) == (0.1, 1e-4, 128)

    def test_it_is_the_one_of_the_released_scripts(self) -> None:
        r = recipe()
        assert (r.optimiser, r.momentum, r.schedule, r.labels) == ("sgd", 0.9, "multistep", "hard")
        assert (r.crop_scale, r.flip, r.jitter, r.lighting, r.patches) == (0.5, True, 0.4, 0.1, 1)
        assert (r.cutmix, r.beta, r.evaluations, r.tested_from, r.test_crop) == (1.0, 1.0, 100, 0.0, 1.0)


class TestHardCifar:
    @pytest.mark.parametrize("ipc", [1, 10, 50, 500])
    def test_it_trains_as_long_whatever_the_ipc(self, ipc: int) -> None:
        assert recipe(ipc, name="hard_cifar").epochs == 1000

    def test_it_is_the_one_of_idcs_script(self) -> None:
        r = recipe(name="hard_cifar")
        assert (r.optimiser, r.lr, r.weight_decay, r.batch, r.schedule) == ("sgd", 0.01, 5e-4, 64, "multistep")
        assert (r.dsa, r.flip, r.shift, r.crop_scale, r.jitter, r.lighting) == ("idc", True, 0, 1, 0, 0)
        assert (r.cutmix, r.statistics, r.evaluations, r.test_crop) == (0.5, "cifar", 1, 1)
        assert "DSA as IDC" in describe(r) and "CIFAR's mean" in describe(r)

    def test_a_hundred_classes_are_shifted_and_flipped(self) -> None:
        r = recipe(classes=100, name="hard_cifar")
        assert (r.dsa, r.shift, r.flip, r.epochs, r.lr) == (False, 4 / 32, True, 1000, 0.01)

    def test_hard_knows_nothing_of_it(self) -> None:
        """Its recipe, which is in the fingerprint of every training, has the values that it had."""
        assert not {"dsa", "shift", "statistics"} & set(recipe().tree())
        assert {"dsa", "statistics"} <= set(recipe(name="hard_cifar").tree())


class TestRded:
    @pytest.mark.parametrize(
        ("student", "lr"),
        [
            ("resnet18_bn", 1e-3),
            ("convnet_bn", 1e-3),
            ("timm:resnet50", 1e-3),
            ("timm:vgg11", 5e-4),
            ("timm:mobilenetv2_100", 2.5e-3),
            ("timm:efficientnet_b0", 2e-3),
            ("timm:tf_efficientnet_b0", 2e-3),
            ("timm:efficientnet_b1", 1e-3),
            ("timm:swinv2_tiny_window8_256", 1e-4),
            ("timm:vit_base_patch16_224", 1e-4),
            ("vit_mine", 1e-3),
        ],
    )
    def test_each_network_has_its_learning_rate(self, student: str, lr: float) -> None:
        assert recipe(student=student, name="rded").lr == lr

    @pytest.mark.parametrize("ipc", [1, 10, 20, 50])
    def test_tiny_imagenet_has_batches_of_100(self, ipc: int) -> None:
        assert recipe(ipc, 200, name="rded").batch == 100

    @pytest.mark.parametrize(
        ("ipc", "classes", "batch"), [(1, 10, 10), (10, 10, 50), (50, 10, 100), (1, 100, 20), (10, 1000, 100)]
    )
    def test_batches_by_images_per_class(self, ipc: int, classes: int, batch: int) -> None:
        assert recipe(ipc, classes, name="rded").batch == batch

    def test_other_ipc_must_give_a_batch(self) -> None:
        with pytest.raises(BadInput, match=r"not for ipc=20; give evaluate\.protocol\.batch"):
            recipe(20, name="rded")
        assert recipe(20, name="rded", batch=40).batch == 40

    def test_it_is_the_one_of_the_released_script(self) -> None:
        r = recipe(name="rded")
        assert (r.optimiser, r.lr, r.weight_decay, r.epochs, r.schedule) == ("adamw", 1e-3, 0.01, 300, "half_cosine")
        assert (r.labels, r.temperature, r.bn_pass, r.cutmix, r.beta) == ("teacher", 20, True, 1, 1)
        assert (r.patches, r.crop_scale, r.flip, r.jitter, r.lighting) == (2, 0.5, True, 0, 0)
        assert (r.test_crop, r.tested_from) == (224 / 256, 0.8)
        assert recipe(student="vgg11", name="rded").lr == 5e-4 and recipe(student="alexnet", name="rded").lr == 1e-4

    def test_without_patches_nothing_is_cropped(self) -> None:
        assert recipe(name="rded", patches=1).crop_scale == 1


class TestFkd:
    def test_it_is_the_one_of_the_released_script(self) -> None:
        r = recipe(name="fkd")
        assert (r.optimiser, r.lr, r.weight_decay, r.epochs, r.schedule) == ("adamw", 1e-3, 0.01, 300, "cosine")
        assert (r.labels, r.temperature, r.batch, r.crop_scale, r.flip) == ("stored", 20, 1024, 0.08, True)
        assert (r.patches, r.jitter, r.bn_pass) == (1, 0, False)

    def test_there_is_a_view_an_epoch_unless_fewer_are_asked_for(self) -> None:
        assert recipe(name="fkd").views == 300 and recipe(name="fkd", budget=0.1).views == 30
        assert recipe(name="fkd", views=7).views == 7 and recipe(name="hard").views == 0


class TestRd3:
    def test_it_is_the_same_for_every_set(self) -> None:
        r = recipe(name="rd3")
        assert (r.optimiser, r.lr, r.weight_decay, r.epochs, r.batch) == ("adam", 1e-3, 0, 400, 50)
        assert (r.labels, r.temperature, r.patches, r.crop_scale, r.flip) == ("teacher", 20, 2, 0.5, True)
        assert {recipe(ipc, classes, name="rd3").batch for ipc in (1, 20, 50) for classes in (10, 200, 1000)} == {50}

    def test_the_cosine_of_resnet18_ends_at_nothing_others_at_one_half(self) -> None:
        ends = {s: recipe(student=s, name="rd3").schedule for s in ("resnet18_bn", "timm:resnet18", "convnet_bn")}
        assert ends == {"resnet18_bn": "cosine", "timm:resnet18": "cosine", "convnet_bn": "half_cosine"}


class TestSoftLabels:
    @pytest.mark.parametrize("name", ["rded", "rd3", "fkd"])
    def test_so_many_are_stored_and_the_title_says_so(self, name: str) -> None:
        r = recipe(name=name, soft_labels=4)
        assert (r.labels, r.views, r.temperature) == ("stored", 4, 20)
        assert title(ProtocolConfig(name=name, soft_labels=4)) == f"{name}, 32 px, soft_labels=4"

    def test_of_fkd_they_are_its_views(self) -> None:
        assert recipe(name="fkd", soft_labels=4) == recipe(name="fkd", views=4)

    def test_never_more_than_epochs(self) -> None:
        assert recipe(name="rd3", epochs=3, soft_labels=9).views == 3

    def test_hard_labels_and_two_numbers_are_refused(self) -> None:
        for name in ("hard", "hard_cifar"):
            with pytest.raises(BadInput, match=rf"soft_labels=2: protocol {name} trains on hard labels; leave it out"):
                recipe(name=name, soft_labels=2)
        assert recipe(name="rd3", soft_labels=2).labels == "stored", "the remedy"
        with pytest.raises(BadInput, match=r"soft_labels=2 and evaluate\.protocol\.views=3 both say"):
            recipe(name="fkd", soft_labels=2, views=3)


class TestStudents:
    @pytest.mark.parametrize(
        ("name", "students"),
        [
            ("hard", ["convnet"]),
            ("hard_cifar", ["convnet"]),
            ("rded", ["convnet_bn", "resnet18_bn"]),
            ("fkd", ["resnet18_bn"]),
            ("rd3", ["resnet18_bn"]),
        ],
    )
    def test_a_protocol_trains_its_own_unless_others_are_named(self, name: str, students: list[str]) -> None:
        e = EvaluateConfig(protocol=ProtocolConfig(name=name))
        assert students_of(e) == students
        assert students_of(e.model_copy(update={"students": ["vgg11"]})) == ["vgg11"]

    def test_presets_leave_it_to_the_protocol_and_the_quickstart_does_not(self) -> None:
        for name, students in (("imagenette", ["resnet18_bn"]), ("quickstart", ["convnet"])):
            assert students_of(load(name, ["evaluate.protocol.name=rd3"]).evaluate) == students

    def test_changing_the_protocol_of_a_run_changes_them(self) -> None:
        """What a run keeps of its configuration is what was asked, not what came of it."""
        kept = load("imagenette").tree()
        assert kept["evaluate"]["students"] is None
        asked = build(kept | {"evaluate": kept["evaluate"] | {"protocol": {"name": "fkd"}}})
        assert students_of(asked.evaluate) == ["resnet18_bn"]


class TestConfiguration:
    def test_the_budget_scales_the_epochs_and_is_named(self) -> None:
        assert recipe(budget=0.1).epochs == 200 and recipe(budget=1e-6).epochs == 1
        assert title(ProtocolConfig(budget=0.1, image_size=64)) == "hard x0.1, 64 px"

    def test_visits_are_the_same_for_every_ipc(self) -> None:
        assert {recipe(ipc, visits=4000).visits for ipc in (1, 7, 50)} == {4000}
        assert recipe(7, visits=4000).epochs == 58

    def test_whatever_departs_from_the_protocol_is_named(self) -> None:
        changed = ProtocolConfig(image_size=64, flip=False, lr=0.05, evaluations=5)
        assert title(changed) == "hard, 64 px, lr=0.05, flip=false, evaluations=5"
        assert title(ProtocolConfig(visits=4000)) == "hard, 4000 visits, 32 px"

    @pytest.mark.parametrize(
        ("name", "more", "departures"),
        [
            ("hard", {}, ""),
            ("rd3", {}, ", temperature=3.0"),
            ("fkd", {}, ", temperature=3.0, views=4"),
            ("rd3", {"views": None, "soft_labels": 4}, ", soft_labels=4, temperature=3.0"),
        ],
    )
    def test_its_title_names_no_numbers_of_labels_that_it_has_not(
        self, name: str, more: dict[str, Any], departures: str
    ) -> None:
        """A sweep over protocols may hold them fixed."""
        protocol = ProtocolConfig(**{"name": name, "temperature": 3.0, "views": 4} | more)
        labels = resolve(protocol, Setting(10, 10, 32, "convnet")).labels
        assert title(protocol, labels) == f"{name}, 32 px{departures}"

    def test_patches_are_pixels_at_least(self) -> None:
        with pytest.raises(BadInput, match=r"patches=16 is more than the pixels of a side; lower it to .*=8 or less"):
            recipe(image_size=8, patches=16)
        with pytest.raises(BadInput, match=r"patches=16"):
            recipe(image_size=8, patches=16, name="rd3")
        whole = draw_patches(3, 8, recipe(image_size=8, patches=8).patches, "key")
        assert whole is not None and [sorted(row) for row in whole[0]] == [list(range(8))] * 3, "the remedy"

    def test_null_is_the_protocols_own(self) -> None:
        assert recipe(flip=None, lr=None, image_size=224) == recipe(image_size=224)
        changed = recipe(lr=0.5, image_size=224)
        assert changed.lr == 0.5 and changed.tree() | {"lr": 0.01} == recipe(image_size=224).tree()

    def test_every_value_is_in_the_tree(self) -> None:
        tree = recipe().tree()
        assert tree["protocol"] == "hard" and {"epochs", "visits", "lr", "jitter", "cutmix", "image_size"} <= set(tree)
        assert "2,000 epochs" not in describe(recipe()) and "200,000 image visits" in describe(recipe())

    def test_an_unknown_protocol_is_told_in_one_line(self) -> None:
        with pytest.raises(BadInput, match="unknown protocol 'hart'; did you mean 'hard'"):
            recipe(name="hart")

    @pytest.mark.parametrize("override", ["budget=0", "budget=-1", "cutmix=2", "batch=0", "evaluations=0", "visits=0"])
    def test_values_that_cannot_be_are_refused(self, override: str) -> None:
        with pytest.raises(BadInput, match=rf"evaluate\.protocol\.{override.split('=')[0]}"):
            load("quickstart", [f"evaluate.protocol.{override}"])


class TestRates:
    @staticmethod
    def rates(r: Recipe) -> list[float]:
        """The learning rate of each epoch, relative to the first."""
        opt = torch.optim.SGD([nn.Parameter(torch.zeros(1))], r.lr)
        rates = []
        for seen in range(0, r.visits, r.visits // r.epochs):
            set_rate(opt, r, seen)
            rates.append(opt.param_groups[0]["lr"] / r.lr)
        return rates

    def test_hard_falls_at_two_thirds_and_five_sixths(self) -> None:
        rates = self.rates(recipe(budget=0.06))
        assert len(rates) == 120
        assert rates == pytest.approx([1.0] * 80 + [0.2] * 20 + [0.04] * 20)

    def test_torch_agrees(self) -> None:
        r = recipe(budget=0.05)
        opt = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 1.0)
        scheduler = torch.optim.lr_scheduler.MultiStepLR(opt, [2 * 100 // 3, 5 * 100 // 6], gamma=0.2)
        expected = []
        for _ in range(100):
            expected.append(opt.param_groups[0]["lr"])
            opt.step()
            scheduler.step()
        assert self.rates(r) == pytest.approx(expected)

    def test_rded_ends_at_one_half(self) -> None:
        rates = self.rates(recipe(name="rded"))
        assert len(rates) == 300 and rates[0] == 1 and rates[-1] == pytest.approx(0.5, abs=0.003)
        assert rates[150] == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))

    def test_fkd_ends_at_nothing(self) -> None:
        rates = self.rates(recipe(name="fkd"))
        assert rates[150] == pytest.approx(0.5) and rates[-1] == pytest.approx(0, abs=1e-4)

    def test_a_training_of_one_epoch_starts_at_the_full_rate(self) -> None:
        assert self.rates(recipe(budget=1e-6)) == [1.0]


class TestOptimiser:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(4, 4), nn.Flatten(), nn.Linear(4, 2))

    def test_sgd_decays_everything(self) -> None:
        opt = optimiser(self.net, recipe())
        assert isinstance(opt, torch.optim.SGD) and len(opt.param_groups) == 1
        assert opt.param_groups[0]["momentum"] == 0.9 and opt.param_groups[0]["weight_decay"] == 5e-4

    def test_adam_decays_nothing(self) -> None:
        opt = optimiser(self.net, recipe(name="rd3"))
        assert type(opt) is torch.optim.Adam and opt.defaults["betas"] == (0.9, 0.999)
        assert opt.defaults["weight_decay"] == 0 and opt.defaults["lr"] == 1e-3

    def test_adamw_leaves_one_dimensional_parameters_alone(self) -> None:
        opt = optimiser(self.net, recipe(name="rded"))
        assert isinstance(opt, torch.optim.AdamW) and opt.defaults["betas"] == (0.9, 0.999)
        dimensions = [{p.dim() for p in group["params"]} for group in opt.param_groups]
        assert dimensions == [{2, 4}, {1}] and [g["weight_decay"] for g in opt.param_groups] == [0.01, 0]
        assert sum(len(g["params"]) for g in opt.param_groups) == len(list(self.net.parameters()))

    def test_adamw_decays_neither_positions_nor_tokens_nor_tables_of_biases(self) -> None:
        """A transformer's: not called weights, though they have two dimensions and more; `hard` decays them too."""
        net = Transformer()
        of_weights, others = (group["params"] for group in optimiser(net, recipe(name="fkd")).param_groups)
        names = {id(p): name for name, p in net.named_parameters()}
        assert [names[id(p)] for p in of_weights] == ["attention.in_proj_weight", "attention.out_proj.weight"]
        several = {names[id(p)] for p in others if p.dim() > 1}
        assert several == {"cls_token", "pos_embed", "relative_position_bias_table", "logit_scale"}
        (everything,) = optimiser(net, recipe()).param_groups
        assert len(everything["params"]) == len(names)

    @pytest.mark.parametrize("student", registry.names("student"))
    def test_of_our_students_everything_of_more_than_one_dimension_is_a_weight(self, student: str) -> None:
        """So that their trainings are those of earlier versions, and keep their fingerprints."""
        net = registry.get("student", student)(10, 32, 8)
        of_weights, others = (group["params"] for group in optimiser(net, recipe(name="rded")).param_groups)
        assert list(map(id, of_weights)) == [id(p) for p in net.parameters() if p.dim() > 1]
        assert list(map(id, others)) == [id(p) for p in net.parameters() if p.dim() <= 1]

    def test_only_a_training_of_a_network_that_may_have_more_is_another_by_what_is_decayed(self) -> None:
        """A finished one that decayed a transformer's positions is not taken for one that did not."""
        assert decay(recipe(name="rded", student="timm:vit_tiny"), "timm:vit_tiny") == ["weights"]
        assert decay(recipe(name="fkd"), "of_another_package") == ["weights"]
        assert decay(recipe(), "timm:vit_tiny") == decay(recipe(name="rd3"), "timm:vit_tiny") == []
        assert all(decay(recipe(name="fkd", student=s), s) == [] for s in ("convnet_bn", "resnet18_bn"))


class Transformer(nn.Module):
    """The parameters of timm's ViT and Swin that are no weights, beside an attention."""

    def __init__(self) -> None:
        super().__init__()
        self.cls_token, self.pos_embed = nn.Parameter(torch.zeros(1, 1, 4)), nn.Parameter(torch.zeros(1, 5, 4))
        self.relative_position_bias_table = nn.Parameter(torch.zeros(9, 2))
        self.logit_scale = nn.Parameter(torch.zeros(2, 1, 1))
        self.attention, self.norm = nn.MultiheadAttention(4, 2), nn.LayerNorm(4)
