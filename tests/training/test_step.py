"""The training step: its terms, its parameters, and how few calls lie between the loop and a loss."""

import copy
import sys
from pathlib import Path

import pytest
import torch

import c2dlib
from c2dlib import distributed
from c2dlib.cluster.cost import CLASSES, random_step, scene
from c2dlib.config.experiment import Experiment, experiment
from c2dlib.distillation import classify, localise
from c2dlib.distillation.controls import LabelControl
from c2dlib.training import loop
from c2dlib.training.loop import OptimizerSettings, fit
from c2dlib.training.step import TrainingStep

ARCHITECTURE = Path(__file__).resolve().parents[2] / "docs" / "architecture.md"
PACKAGE = Path(c2dlib.__file__).parent


def small(method, student="FasterRCNN-R50"):
    """A step with random weights at smoke scale, one classification teacher, and one image."""
    torch.manual_seed(0)
    step, teacher = random_step(experiment("smoke", student, method, backbone_weights="none"))
    images, targets = scene(1)
    return step, teacher, images, targets


def calls_until(frame, code) -> int:
    """The number of calls of c2dlib's functions from one with ``code`` to a loss that ``frame`` calls."""
    calls = 1
    while frame.f_code is not code:
        calls += Path(frame.f_code.co_filename).is_relative_to(PACKAGE)
        frame = frame.f_back
    return calls


def test_the_losses_are_as_few_calls_from_the_loop_as_the_readme_says(monkeypatch, tmp_path):
    """The loop calls the step (1), that a distiller (2), that the loss; loc is one function deeper."""
    calls = {}

    def counting(name, loss):
        def counted(*arguments):
            calls.setdefault(name, set()).add(calls_until(sys._getframe(1), loop.fit.__code__))
            return loss(*arguments)

        return counted

    monkeypatch.setattr(classify, "kd_cls", counting("KD_cls", classify.kd_cls))
    monkeypatch.setattr(localise, "pooled_l1", counting("loc", localise.pooled_l1))
    step, _, images, targets = small("C2D", "SSD300-VGG16")
    fit(
        OptimizerSettings(lr=1e-4),
        1,
        step.trained,
        lambda start: [(images, targets)],
        step,
        tmp_path,
        "cpu",
        shared=True,
    )
    assert calls == {"KD_cls": {3}, "loc": {4}}
    text = " ".join(ARCHITECTURE.read_text().split())
    assert "KD_cls is reached in 3 calls from the training loop, loc in 4" in text


def test_terms_are_those_of_the_detector_and_then_of_each_distiller():
    step, _, images, targets = small("C2D+FKD")
    assert set(step.state_dict()) == {
        *(f"student.{name}" for name in step.student.state_dict()),
        *(f"adapters.imitation.{name}" for name in step.adapters["imitation"].state_dict()),
    }
    state = {name: value.clone() for name, value in step.state_dict().items()}
    torch.manual_seed(7)
    out = step.student(images, targets)
    expected = dict(out.task_losses)
    for distiller in step.distillers:
        expected |= distiller(out)
    step.load_state_dict(state)  # batch statistics moved
    torch.manual_seed(7)
    terms = step(images, targets)
    assert list(terms) == list(expected) and list(terms)[-7:-4] == ["KDcls", "loc", "KDloc"]
    assert all(torch.equal(terms[name], value) for name, value in expected.items())


def test_the_plain_step_has_the_detectors_own_losses_and_asks_no_teacher(monkeypatch):
    step, teacher, images, targets = small("C2D+FKD")
    for owner, name in ((teacher, "read"), (teacher, "early"), (step.distillers[-1].teacher, "forward")):
        monkeypatch.setattr(owner, name, lambda *_, **__: pytest.fail("a teacher was asked"))
    terms = step(images, targets, distilled=False)
    assert terms.keys() == step.student.model(images, targets).keys()


def test_only_student_and_adapters_are_trained_and_kept():
    step, teacher, images, targets = small("C2D+FKD")
    assert list(step.trained) == ["student", "imitation"] and step.trained["student"] is step.student.model
    detector = step.distillers[-1].teacher
    taught = {id(p) for module in (teacher, detector) for p in module.parameters()}
    trained = {id(p) for module in step.trained.values() for p in module.parameters()}
    assert trained == {id(p) for p in step.parameters()} and not trained & taught
    kept = {value.data_ptr() for value in step.state_dict().values() if value.numel()}
    assert not kept & {
        value.data_ptr() for module in (teacher, detector) for value in module.state_dict().values()
    }
    step.train()
    assert not teacher.training and not detector.training
    sum(step(images, targets).values()).backward()
    assert all(p.grad is None for module in (teacher, detector) for p in module.parameters())
    adapters = step.trained["imitation"].named_parameters()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for _, p in adapters)


@pytest.mark.parametrize("student", ["SSD300-VGG16", "FasterRCNN-R50", "RetinaNet-R50", "FCOS-R50"])
def test_a_loop_of_ones_own_has_the_gradient_of_the_librarys_run(student):
    """A plain torchvision detector, ``C2D`` and ``training_step`` against an Experiment's step.

    Which boxes of FCOS are compared needs no setting.
    """
    library, teacher, images, targets = small("C2D", student)
    e = experiment("smoke", student, "C2D")
    names = "lambda_kc temperature lambda_l lambda_kl sampling_size pool_obj pool_maps kd_loc_layers".split()
    settings = {name: getattr(e, name) for name in [*names, "max_positives"]}
    detector = copy.deepcopy(library.student.model)
    own = c2dlib.training_step(detector, c2dlib.C2D(teacher, **settings))
    gradients = []
    for step in (library, own):
        torch.manual_seed(7)
        sum(step(images, targets).values()).backward()
        gradients.append([p.grad for p in step.parameters() if p.requires_grad])
    assert own.trained["student"] is detector and len(gradients[0]) == len(gradients[1]) > 20
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("student", ["SSD300-VGG16", "FasterRCNN-R50"])
def test_a_box_without_area_is_named(student):
    """torchvision's detectors refuse it; the losses would be infinite or no numbers."""
    step, _, images, targets = small("C2D", student)
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    flat = {"boxes": torch.tensor([[2.0, 2, 9, 9], [5, 5, 5, 30]]), "labels": torch.tensor([1, 1])}
    images, targets = images * 3, [targets[0], empty, flat]
    with pytest.raises(
        ValueError, match=r"image 2 of the batch: the box \[5.0, 5.0, 5.0, 30.0\] has no width"
    ):
        step(images, targets)


def test_c2d_has_the_papers_weights_and_leaves_out_what_has_none():
    _, teacher, _, _ = small("C2D", "SSD300-VGG16")
    classification, localisation = c2dlib.C2D(teacher)
    paper = Experiment()
    assert (classification.lambda_kc, classification.temperature) == (paper.lambda_kc, paper.temperature)
    assert localisation.weights == {"loc": paper.lambda_l, "KDloc": paper.lambda_kl}
    assert localisation.cells == {"loc": paper.pool_obj, "KDloc": paper.pool_maps}
    assert (localisation.sampling_size, localisation.kd_loc_layers) == (
        paper.sampling_size,
        paper.kd_loc_layers,
    )
    (only,) = c2dlib.C2D(teacher, lambda_l=0, lambda_kl=0)
    assert isinstance(only, c2dlib.ClassificationDistiller)
    (only,) = c2dlib.C2D(teacher, lambda_kc=0, lambda_kl=0)
    assert only.terms == ["loc"]


def test_several_processes_scale_terms_by_their_divisors(monkeypatch):
    """The other process has as many images, so factor 1, but three times the positives: 2 n / 4 n."""
    step, _, images, targets = small("KDcls", "SSD300-VGG16")
    alone = step(images, targets)
    (distiller,) = step.distillers
    assert distiller.divisors(step.student(images, targets))["KDcls"] > 0
    monkeypatch.setattr(distributed, "world", lambda: 2)

    def all_reduce(counts):
        counts[:-1] *= 2
        counts[-1] *= 4  # KDcls: three times as many positives in the other one

    monkeypatch.setattr(distributed.dist, "all_reduce", all_reduce)
    scaled = step(images, targets)
    for name, term in alone.items():
        torch.testing.assert_close(scaled[name], term * (0.5 if name == "KDcls" else 1.0))
    unscaled = step(images, targets, shared=False)
    assert all(torch.equal(unscaled[name], term) for name, term in alone.items())
    assert CLASSES == 80 and len(images) == 1


def test_the_public_names_are_the_librarys():
    """The dozen names that DESIGN.md lists, the three that put them together, and nothing else."""
    assert sorted(c2dlib.__all__) == [
        "C2D",
        "ClassificationDistiller",
        "FCOSStep",
        "FasterRCNNStep",
        "LocalisationDistiller",
        "MatchedPositives",
        "RetinaNetStep",
        "SSDStep",
        "Teacher",
        "TrainOutput",
        "crop_regions",
        "kd_cls",
        "pooled_l1",
        "train_teacher",
        "training_step",
    ]
    assert c2dlib.kd_cls is classify.kd_cls and c2dlib.LocalisationDistiller is localise.LocalisationDistiller
    assert all(getattr(c2dlib, name).__name__ == name for name in c2dlib.__all__)
    with pytest.raises(AttributeError, match="no attribute 'kd_clss'"):
        _ = c2dlib.kd_clss


@pytest.mark.parametrize(
    "student, box, classes",
    [
        ("SSD300-VGG16", ["bbox_regression"], ["classification"]),
        ("FasterRCNN-R50", ["loss_box_reg", "loss_rpn_box_reg"], ["loss_classifier"]),
        ("RetinaNet-R50", ["bbox_regression"], ["classification"]),
    ],
)
def test_the_detectors_own_losses_can_be_reweighted(student, box, classes):
    step, _, images, targets = small("baseline", student)
    weighted = TrainingStep(step.student, [], {"box": 4.0, "class": 0.5})
    torch.manual_seed(1)
    plain = step(images, targets)
    torch.manual_seed(1)
    changed = weighted(images, targets)
    factors = {**dict.fromkeys(box, 4.0), **dict.fromkeys(classes, 0.5)}
    assert list(changed) == list(plain) and set(factors) <= set(plain)
    for name, value in plain.items():
        torch.testing.assert_close(changed[name], factors.get(name, 1.0) * value)


def test_half_a_cross_entropy_more_on_ssds_positives_is_a_foreground_weight_of_one_and_a_half():
    """The row *foreground x 1.5*: SSD's class loss is (positives + mined negatives) / positives."""
    step, _, images, targets = small("baseline", "SSD300-VGG16")
    out = step.student(images, targets)
    p = out.positives
    z = torch.cat([p.background_logits[:, None], p.class_logits], 1)
    foreground = torch.nn.functional.cross_entropy(z, p.labels + 1)  # a mean over the positives
    assert 0 < foreground < out.task_losses["classification"]
    term = LabelControl(0.5, 1.0)(out)["KDcls-labels"]
    torch.testing.assert_close(term, 0.5 * foreground)
