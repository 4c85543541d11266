"""The explorer: widgets that depend on one another, figures without widgets, messages for unknown names."""

import pytest
from matplotlib.figure import Figure

from c2dlib.evaluation.tide import TYPES
from c2dlib.figures import explorer
from c2dlib.figures.explorer import ErrorBrowser, explore
from c2dlib.reporting import notebooks
from c2dlib.training.run import experiment_for, run
from c2dlib.workspace import open_workspace

PNG = b"\x89PNG"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("workspace")
    return open_workspace("smoke", results=folder / "results", runs=folder / "runs", device="cpu")


@pytest.fixture(scope="module")
def trained(place):
    e = experiment_for(*place, "SSD300-VGG16", steps=2, pretrain_steps=1, pretrain_scenes=8)
    run(e, place[0])
    return e


def test_pages_hold_every_error_once(place, trained):
    browser = ErrorBrowser([trained, trained.replace(seed=7)], place[0])  # seed 7 was never trained
    assert list(browser.runs) == [trained.name]
    for kind in TYPES:
        every = browser.matching(trained.name, kind, 50)
        by_class = [browser.matching(trained.name, kind, 50, name) for name in browser.names.values()]
        assert set(map(id, every)) == {id(one) for some in by_class for one in some}
    count = len(browser.matching(trained.name, "Miss", 95))
    assert count > explorer.PER_PAGE
    last = browser.figure(trained.name, "Miss", 95, page=(count - 1) // explorer.PER_PAGE)
    assert f"to {count} of {count}" in last.alt
    assert len([ax for ax in last.axes if ax.get_images()]) == (count - 1) % explorer.PER_PAGE + 1
    assert ": none." in browser.figure(trained.name, "Cls", page=9999).alt


@pytest.mark.parametrize(
    "changes, words",
    [
        (
            {"run": "SSD300-VGG16.ours.s9"},
            "no run 'SSD300-VGG16.ours.s9'; there are SSD300-VGG16.baseline.s0",
        ),
        ({"type": "Mist"}, "no error type 'Mist'; there are Cls, Loc, Both, Dupe, Bkg, Miss"),
        ({"category": "fish"}, "no class 'fish'; there are 3-arm hub-1"),
    ],
)
def test_what_does_not_exist_is_named(place, trained, changes, words):
    with pytest.raises(ValueError, match=words):
        ErrorBrowser([trained], place[0]).figure(**{"run": trained.name, **changes})


def test_no_run_to_show(place, trained):
    with pytest.raises(FileNotFoundError, match="no run given"):
        ErrorBrowser([], place[0])
    with pytest.raises(FileNotFoundError, match="no run with detections on this machine: .*seed|s7"):
        explore([trained.replace(seed=7)], place[0])


def test_headless_it_is_a_figure(place, trained, monkeypatch):
    monkeypatch.setenv(notebooks.HEADLESS, "1")
    assert isinstance(explore([trained], place[0]), Figure)


def test_widgets_follow_one_another(place, trained, monkeypatch):
    monkeypatch.delenv(notebooks.HEADLESS, raising=False)
    box = explore([trained], place[0])
    (run_, category), kind, (iou, previous, page, of, following), images, bars = (
        box.children[0].children,
        box.children[1],
        box.children[2].children,
        *box.children[3:],
    )
    assert run_.value == trained.name
    for picture in (images, bars):
        assert picture.value.startswith('<img src="data:image/png;base64,') and 'alt="' in picture.value
    iou.value, kind.value = 95, "Miss"
    first, pages = images.value, page.max
    assert page.value == 1 and of.value == f"of {pages}" and pages > 2
    assert previous.disabled and not following.disabled
    following.click()
    assert images.value != first and page.value == 2 and not previous.disabled
    previous.click()
    assert images.value == first and page.value == 1
    page.value = pages  # typed
    assert images.value != first and following.disabled and not previous.disabled
    kind.value = "Dupe"
    assert page.value == 1 and of.value == f"of {page.max}"
    kind.value, category.value = "Miss", category.options[1][1]
    assert page.max < pages
