"""The result on data of one's own: counted by hand, without a number of the paper."""

from c2dlib.config.experiment import experiment
from c2dlib.reporting.own_data import caveats, gain_text, result
from tests.reporting.helpers import SSD, record

TEACHER = {"hash": "a", "title": "teacher resnet18", "top1": 81.54, "ECE": 3.0, "split": "val"}


def pairs(seeds: int = 1, **settings) -> list[dict]:
    return [
        {m: experiment("smoke", SSD, m, s, **settings) for m in ("baseline", "KDcls+loc+KDloc")}
        for s in range(seeds)
    ]


def records(pairs: list[dict], *values: float, **changes) -> dict:
    experiments = [e for pair in pairs for e in pair.values()]
    return {e.hash(): record(e, v, **changes) for e, v in zip(experiments, values, strict=False)}


def test_a_line_per_student_and_the_gain():
    both = pairs()
    found = records(both, 20.0, 22.5)
    e = both[0]["KDcls+loc+KDloc"]
    found[e.hash()] = record(e, 22.5, relative_seconds=1.376, wall_seconds=90.0)
    frame = result(both, found)
    assert list(frame) == ["student", "mAP", "AP50", "AP75", "time of a step", "minutes"]
    assert frame.to_numpy().tolist() == [
        ["baseline", "20.0", "5.0", "5.0", "–", "1.0"],
        ["C2D", "22.5", "5.0", "5.0", "x 1.38", "1.5"],
        ["gain", "+2.5", "+0.0", "+0.0", "", ""],
    ]


def test_means_and_the_paired_interval_over_seeds():
    three = pairs(3)
    found = records(three, 20.0, 21.0, 22.0, 24.0, 24.0, 27.0)
    frame = result(three, found).set_index("student")
    assert frame.mAP["baseline"] == "22.0" and frame.mAP["C2D"] == "24.0"
    # differences 1, 2, 3: mean 2, sd 1, t of 2 degrees of freedom 4.303: +- 4.303 / sqrt(3)
    assert frame.mAP["gain"] == "+2.0 [-0.5, +4.5]"
    assert not any("One seed" in sentence for sentence in caveats(three, found, {"val": 500}))


def test_no_gain_between_a_gpu_and_a_cpu():
    both = pairs(2)
    found = records(both, 20.0, 22.0, 20.0, 30.0)
    last = both[1]["KDcls+loc+KDloc"]
    found[last.hash()] = record(last, 30.0, device="NVIDIA H100")
    assert gain_text(both, found) == "+2.0"
    assert any("others from a GPU" in sentence for sentence in caveats(both, found, {"val": 500}))


def test_what_is_not_done_is_a_dash_and_a_sentence():
    both = pairs()
    found = records(both, 20.0)
    frame = result(both, found).set_index("student")
    assert frame.mAP["C2D"] == frame.mAP["gain"] == gain_text(both, found) == "–"
    text = " ".join(caveats(both, found, {"val": 500}))
    assert f"**{SSD}.KDcls+loc+KDloc.s0: ended by an error" in text
    e = both[0]["KDcls+loc+KDloc"]
    found[e.hash()] = record(e, status="OOM", reason="out of memory with 8 images")
    assert "OOM: out of memory with 8 images" in " ".join(caveats(both, found, {"val": 500}))
    assert result([{"baseline": both[0]["baseline"]}], found).student.tolist() == ["baseline"]


def test_a_teacher_that_was_trained_twice_is_two_teachers():
    two = pairs(2)
    found = records(two, 20.0, 21.0, 22.0, 24.0)
    for pair, top1 in zip(two, (81.54, 70.0), strict=True):
        e = pair["KDcls+loc+KDloc"]
        found[e.hash()] = record(e, teacher=TEACHER | {"top1": top1})
    sentences = [s for s in caveats(two, found, {"val": 500}) if s.startswith(TEACHER["title"])]
    assert ["81.5 %" in sentences[0], "70.0 %" in sentences[1]] == [True, True]
    assert f"**It taught {SSD} C2D (seed 1). Another training" in sentences[1]


def test_caveats():
    both = pairs(keep_best_every=5)
    found = records(both, 20.0, 21.0, teacher=TEACHER, data={"val_split": "there is no val split: 1 of 6"})
    text = " ".join(caveats(both, found, {"val": 99}))
    for words in (
        "One seed: the difference may be chance.",
        "`val`, 99 images.",
        "a little too high",
        "So few images",
        "teacher resnet18: 81.5 % of the crops of `val` are classified correctly.",
        "There is no val split: 1 of 6.",
    ):
        assert words in text
    assert text.count("teacher resnet18") == 1 and "paper" not in text and "80.3" not in text
    other = {k: record(e, 9.0, data={"initial_weights": k}) for e in both[0].values() for k in [e.hash()]}
    assert "different initial weights" in " ".join(caveats(both, other, {"val": 500}))
