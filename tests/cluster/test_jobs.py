"""A table as independent jobs, and their costs: counted by hand, planned in order, written for schedulers."""

import json
import os
import shlex
import subprocess
from functools import partial
from pathlib import Path

import pytest
import torch

from c2dlib.cli import main
from c2dlib.cluster import cost, jobs
from c2dlib.config.experiment import Experiment, experiment, parse_override
from c2dlib.data.badges import make_badges
from c2dlib.records import ROOT
from c2dlib.reporting.work_list import TABLES, experiments, work_list
from c2dlib.training.run import experiment_for
from c2dlib.training.schedule import plan
from c2dlib.workspace import open_workspace

A100 = cost.GPUS["A100"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return make_badges(tmp_path / "photos", train=6, val=2, test=0)


@pytest.fixture
def known_counts(tmp_path):
    rows = [
        {
            "student": "FasterRCNN-R50",
            "method": m,
            "image_size": 800,
            "gflops": g,
            "activations_mb": 1000.0,
            "parameters": 41e6,
            "trained": 40e6,
        }
        for m, g in (("baseline", 1000.0), ("KDcls+loc+KDloc", 1250.0))
    ]
    (tmp_path / "counts.json").write_text(json.dumps({"rows": rows}))
    return tmp_path


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "[]", '{"columns": []}'])
def test_a_damaged_file_of_counts_is_named(tmp_path, text):
    (tmp_path / "counts.json").write_text(text)
    with pytest.raises(ValueError, match=f"^{tmp_path}/counts.json: damaged .*--what counts"):
        cost.read_bench("counts", tmp_path)


def test_counts_of_a_step_by_hand():
    """VGG16's convolutions at 300 px are 30.7 GMAC (the SSD paper's table 7 has 31.4 with the extra layers):
    times two, times three for forward and backward, less the gradient of the input. The weights are not kept
    twice."""
    row = cost.count(experiment("coco", "SSD300-VGG16", backbone_weights="none"))
    assert 0.9 * 6 * 34 < row["gflops"] < 1.1 * 6 * 34
    assert (
        row["parameters"] == row["trained"] == 34_305_206
    )  # torchvision's ssd300_vgg16 with 80 classes and background
    assert 100 < row["activations_mb"] < 200
    with_losses = cost.count(experiment("coco", "SSD300-VGG16", "ours", backbone_weights="none"))
    assert 1.05 < with_losses["gflops"] / row["gflops"] < 1.2


def test_hours_energy_and_memory_by_hand(known_counts):
    e = experiment("coco", "FasterRCNN-R50", "ours")  # 24 epochs, 16 images a step, bf16
    cost_of_run = cost.estimate(e, gpus=8, gpu=A100, images=100_000, utilisation=0.2, folder=known_counts)
    rate = 312e3 * 0.2 / 1250  # images a second of one GPU
    assert cost_of_run["source"] == "counted" and cost_of_run["images_per_second"] == pytest.approx(rate)
    assert cost_of_run["hours"] == pytest.approx(24 * 100_000 / (8 * rate) / 3600)
    assert cost_of_run["kWh"] == pytest.approx(cost_of_run["hours"] * 8 * 0.4)
    assert cost_of_run["memory_gb"] == pytest.approx((2 * 1000 * 0.5 + 40e6 * 12e-6) / 1000)
    limits = cost.limits(e, A100, decoded_per_second=100.0, cores=16, utilisation=0.2, folder=known_counts)
    assert limits["loader"] == pytest.approx(1600 / rate) and limits["teacher"] == pytest.approx(0.2)
    assert limits["exchange"] == pytest.approx(1 + 16 * 200e9 / (2 * 40e6 * 4 * rate))


def test_measurements_go_before_counts(known_counts):
    row = {
        "device": "NVIDIA A100-SXM4-80GB",
        "student": "FasterRCNN-R50",
        "method": "baseline",
        "precision": "bf16",
        "image_size": 800,
        "images_per_second": 40.0,
    }
    (known_counts / "throughput.json").write_text(json.dumps({"rows": [row]}))
    cost_of_run = cost.estimate(experiment("coco", "FasterRCNN-R50"), 1, A100, 90_000, folder=known_counts)
    assert cost_of_run["source"] == "measured" and cost_of_run["hours"] == pytest.approx(
        24 * 90_000 / 40 / 3600
    )
    other = cost.estimate(
        experiment("coco", "FasterRCNN-R50"), 1, cost.GPUS["H100"], 90_000, folder=known_counts
    )
    assert other["source"] == "counted"
    unknown = cost.estimate(experiment("coco", "SSD300-VGG16"), 1, A100, folder=known_counts)
    assert unknown["source"] == "unknown" and unknown["hours"] != unknown["hours"]


def test_a_student_or_an_image_size_that_was_not_counted_has_an_unknown_cost(known_counts):
    for e in (experiment("photos", "SSD300-MV1x025"), experiment("mini", "FasterRCNN-R50")):
        assert cost.estimate(e, 1, A100, folder=known_counts)["source"] == "unknown"


def test_every_student_of_the_paper_has_been_counted():
    rows = {(r["student"], r["method"]) for r in cost.read_bench("counts", ROOT / "results" / "bench")}
    for student in (
        "SSD300-VGG16",
        "SSD512-VGG16",
        "FasterRCNN-QR50",
        "FasterRCNN-MV2",
        "FasterRCNN-R50",
        "RetinaNet-R50",
    ):
        assert {(student, "baseline"), (student, "KDcls+loc+KDloc"), (student, "FKD")} <= rows


def test_a_plan_has_every_run_once_behind_what_it_needs(here):
    workspace, folder = open_workspace("coco", here)
    rows = experiments(work_list("table2", workspace, folder))
    planned = jobs.plan_jobs(rows, workspace, folder, "--scale coco --data photos", A100, gpus=4)
    assert len({line.command for line in planned}) == len(planned)
    assert {line.name for line in planned} >= {e.name for e in rows}
    assert (
        sum("R101.baseline" in line.name for line in planned) == 2
    )  # one for all Faster R-CNNs, one for RetinaNet
    assert sum("--part teacher" in line.command for line in planned) == 2  # the SSDs', and everybody else's
    for i, line in enumerate(planned):
        assert all(n < i and planned[n].level < line.level for n in line.needs)
        assert line.processes == (1 if "--part teacher" in line.command else 4)
        assert ("torchrun --standalone --nproc-per-node 4 " in line.command) == (line.processes == 4)
    fkd = next(line for line in planned if line.name == "FasterRCNN-R50.KDcls+loc+KDloc+FKD.s0")
    assert sorted(planned[n].name for n in fkd.needs) == [
        "FasterRCNN-R101.baseline.s0",
        "teacher for FasterRCNN-QR50",
    ]


@pytest.mark.parametrize("table", TABLES)
def test_every_table_can_be_planned(table, here, capsys):
    """Every command of the plan, parsed again, is the experiment of its own run."""
    assert main(["plan", table, "--scale", "coco", "--data", str(here), "--seeds", "2"]) == 0
    printed = capsys.readouterr().out
    workspace, folder = open_workspace("coco", here)
    wanted = {e.hash() for e in experiments(work_list(table, workspace, folder, seeds=2))}
    hashes = set()
    for line in printed.splitlines():
        if line.startswith("[") and "--part" not in line:
            words = shlex.split(line.split("-m c2dlib run ")[1])
            seed = int(words[words.index("--seed") + 1]) if "--seed" in words else 0
            settings = (
                dict(map(parse_override, words[words.index("--set") + 1 :])) if "--set" in words else {}
            )
            hashes.add(experiment_for(workspace, folder, words[0], words[1], seed, **settings).hash())
    assert hashes == wanted
    assert f"{sum(line.startswith('[') for line in printed.splitlines())} jobs;" in printed


def test_what_is_misspelt_in_a_plan_is_named(here, capsys):
    for arguments, words in (
        (["tabel2"], "Did you mean table2"),
        (["table2", "--gpu", "A10"], "Did you mean A100"),
        (["table2", "--students", "SSD51"], "Did you mean SSD512-VGG16"),
        (["table2", "--gpus", "0"], "--gpus 0 must be at least 1"),
        (["table2", "--slurm", "out", "--gpus-per-node", "0"], "--gpus-per-node 0 must be at least 1"),
        (["table2", "--slurm", "out", "--gpus", "12"], "must be a multiple of the 8 GPUs of a node"),
    ):
        assert main(["plan", *arguments, "--scale", "coco", "--data", str(here)]) == 2
        assert words in capsys.readouterr().err
    assert not (here.parent / "out").exists()


def test_slurm_arrays_are_whole_shell_scripts_in_order(here, capsys):
    assert (
        main(
            [
                "plan",
                "table2",
                "--scale",
                "coco",
                "--data",
                str(here),
                "--slurm",
                "jobs",
                "--gpus",
                "16",
                "--students",
                "FasterRCNN-R50",
            ]
        )
        == 0
    )
    folder = here.parent / "jobs"
    scripts = sorted(folder.glob("*.sbatch"))
    for script in [*scripts, folder / "submit.sh"]:
        subprocess.run(["sh", "-n", str(script)], check=True)
        commands = script.with_suffix(".commands")
        if commands.exists():
            count = len(commands.read_text().splitlines())
            assert (
                f"#SBATCH --array=0-{count - 1}\n" in script.read_text()
                and "#SBATCH --requeue\n" in script.read_text()
            )
    everything = "".join((s.with_suffix(".commands")).read_text() for s in scripts)
    assert everything.count("--part detector") == everything.count("--part teacher") == 1
    assert (
        "torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint $C2D_MASTER -m c2dlib run"
        in everything
    )
    submit = (folder / "submit.sh").read_text().splitlines()
    assert "--dependency" not in submit[3] and any("--dependency=afterok:$job0" in line for line in submit)


def test_the_folder_of_a_plan_may_have_any_name(here, capsys):
    """submit.sh queues each array, and an array reads its commands, from ``my jobs;echo "$x"%``."""
    name = 'my jobs;echo "$x"%'
    arguments = ["plan", "table2", "--scale", "coco", "--data", str(here), "--students", "RetinaNet-R50"]
    assert main([*arguments, "--slurm", name, "--make", "all jobs.mk"]) == 0
    printed, folder = capsys.readouterr().out, here.parent / name
    assert f"sh {shlex.quote(f'{name}/submit.sh')}" in printed and "-f 'all jobs.mk'" in printed
    tools = here.parent / "tools"
    tools.mkdir()
    for tool, body in {
        "sbatch": 'for script; do :; done; test -f "$script" && echo 1',
        "squeue": ":",
        "scontrol": "echo here",
        "srun": 'shift 2; echo "$1"',
    }.items():
        (tools / tool).write_text(f"#!/bin/sh\n{body}\n")
        (tools / tool).chmod(0o755)
    environment = {"PATH": f"{tools}:{os.environ['PATH']}", "SLURM_ARRAY_TASK_ID": "0", "SLURM_JOB_ID": "1"}
    run = partial(
        subprocess.run, cwd=here.parent, env=environment, capture_output=True, text=True, check=True
    )
    run(["sh", str(folder / "submit.sh")])
    script = folder / "0.sbatch"
    assert run(["sh", str(script)]).stdout == (folder / "0.commands").read_text().splitlines()[0] + "\n"
    assert '#SBATCH --output="my jobs;echo \\"$x\\"%%/%x-%a.log"\n' in script.read_text()


def test_a_plan_replaces_no_file_but_an_earlier_plans(here, capsys):
    folder, place = here.parent, ["--scale", "coco", "--data", str(here)]
    plan = ["plan", "table1", *place, "--students", "SSD300-VGG16", "--methods", "baseline"]
    assert main([*plan, "--slurm", "jobs", "--make", "jobs.mk"]) == 0
    written = {path.name: path.read_bytes() for path in [*(folder / "jobs").iterdir(), folder / "jobs.mk"]}
    assert sorted(written) == ["0.commands", "0.sbatch", "jobs.mk", "submit.sh"]
    assert main([*plan, "--seeds", "2", "--slurm", "jobs", "--make", "jobs.mk"]) == 0
    assert (folder / "jobs.mk").read_bytes() != written["jobs.mk"]
    assert main([*plan, "--slurm", "jobs", "--make", "jobs.mk"]) == 0
    assert {path.name: path.read_bytes() for path in (folder / "jobs").iterdir()} | {
        "jobs.mk": (folder / "jobs.mk").read_bytes()
    } == written
    capsys.readouterr()
    for name, text in {
        "Makefile": "all:\n\tpython -m c2dlib run\n",
        "0.commands": "python -m c2dlib run\nmine\n",
        "0.sbatch": "#!/bin/sh\n",
        "submit.sh": "",
    }.items():
        own = folder / f"own {name}"
        own.mkdir()
        (own / name).write_text(text)
        option = ["--make", str(own / name)] if name == "Makefile" else ["--slurm", str(own)]
        assert main([*plan, *option]) == 2
        assert f"{own / name}: is there already, and plan did not write it" in capsys.readouterr().err
        assert [(path.name, path.read_text()) for path in own.iterdir()] == [(name, text)]


def test_a_line_break_in_a_path_of_a_plan_is_refused(here, capsys):
    data = here.rename(here.with_name("two\nlines"))
    plan = ["plan", "table1", "--scale", "coco", "--students", "SSD300-VGG16"]
    assert main([*plan, "--data", str(data), "--make", "jobs.mk"]) == 2
    assert "a job is one line" in capsys.readouterr().err.splitlines()[-1]
    assert not (here.parent / "jobs.mk").exists()
    data.rename(here)
    assert main([*plan, "--data", str(here), "--slurm", "two\nlines"]) == 2
    assert "choose a folder without a line break" in capsys.readouterr().err
    assert not (here.parent / "two\nlines").exists()


@pytest.mark.parametrize("part, method", [("teacher", "KDcls"), ("pretrain", "baseline")])
def test_a_part_that_diverges_fails_in_one_line(tmp_path, monkeypatch, capsys, part, method):
    monkeypatch.chdir(tmp_path)
    small = [
        f"{part}_steps=4",
        f"{part}_lr=1e30",
        "pretrain_scenes=8",
        "pretrain_batch=2",
        "teacher_images=2",
    ]
    options = ["--scale", "smoke", "--device", "cpu", "--part", part, "--set", *small]
    assert main(["run", "SSD300-VGG16", method, *options]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith(f"failed: {part} of SSD300-VGG16, {part}_lr=1e+30: step 1: ")


def test_a_makefile_runs_every_job_behind_what_it_needs(here, tmp_path):
    """The commands only note that they ran, and one fails the first time: what needs it waits."""
    lines = [
        jobs.PlannedJob(f"job {i}", command, 1, needs, level, 1.0, 1.0, "counted")
        for i, (command, needs, level) in enumerate(
            [
                ("echo a >>ran", (), 0),
                ("test -e allowed && echo b >>ran", (), 0),
                ("echo c >>ran", (0,), 1),
                ("echo d >>ran", (1, 2), 2),
            ]
        )
    ]
    (tmp_path / "plan.mk").write_text(jobs.makefile(lines))
    make = ["make", "-k", "-j2", "-f", "plan.mk"]
    assert subprocess.run(make, cwd=tmp_path, check=False, capture_output=True).returncode != 0
    assert sorted((tmp_path / "ran").read_text().split()) == ["a", "c"]
    (tmp_path / "allowed").touch()
    (tmp_path / "ran").unlink()
    subprocess.run(make, cwd=tmp_path, check=True, capture_output=True)
    ran = (tmp_path / "ran").read_text().split()
    assert sorted(ran) == ["a", "b", "c", "d"] and ran.index("a") < ran.index("c") and ran[-1] == "d"


def test_a_finished_run_is_not_planned_again(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    workspace, folder = open_workspace("smoke", device="cpu")
    options = [
        "--scale",
        "smoke",
        "--students",
        "SSD512-VGG16",
        "--methods",
        "baseline",
        "--set",
        "backbone_weights=none",
        "steps=1",
    ]
    assert main(["plan", "table2", *options]) == 0 and "1 jobs;" in capsys.readouterr().out
    assert (
        main(
            [
                "run",
                "SSD512-VGG16",
                "baseline",
                "--scale",
                "smoke",
                "--device",
                "cpu",
                "--set",
                "backbone_weights=none",
                "steps=1",
            ]
        )
        == 0
    )
    assert "record: results/badges-smoke/records/SSD512-VGG16.baseline.s0" in capsys.readouterr().out
    (record,) = Path("results/badges-smoke/records").glob("*.json")
    assert Path("results/badges-smoke/errors", record.name).is_file()  # TIDE's, without the detections
    assert main(["plan", "table2", *options]) == 0 and "every run is finished" in capsys.readouterr().out
    assert (
        main(["table", "table2", *options]) == 0
        and "1 of 1 rows have a finished run" in capsys.readouterr().out
    )
    more = list(options)
    more.insert(more.index("baseline") + 1, "FKD")
    assert main(["table", "table2", *more]) == 0
    printed = capsys.readouterr().out
    assert (
        "1 of 2 rows have a finished run" in printed
        and "not run" in printed
        and not list((tmp_path / "runs/badges-smoke").glob("*FKD*"))
    )
    assert not plan(
        experiments(
            work_list(
                "table2",
                workspace,
                folder,
                1,
                ["SSD512-VGG16"],
                ["baseline"],
                {"backbone_weights": "none", "steps": 1},
            )
        ),
        workspace,
    )
    assert main(["run", "SSD512-VGG16", "baseline", "--scale", "smoke", "--part", "teacher"]) == 2
    assert "SSD512-VGG16 baseline needs no teacher" in capsys.readouterr().err


def test_the_recipe_is_the_papers_but_for_what_deviations_explain():
    recipe, explained = cost.recipe(), (ROOT / "DEVIATIONS.md").read_text()
    assert len(recipe) > 35 and set(recipe[~recipe.same].setting) == {"precision", "backbone_weights"}
    assert "| precision | fp32 | bf16" in explained and "QR50's initial weights" in explained
    ours = experiment("coco", "SSD512-VGG16")  # by hand, from the paper's section 4 and its code
    assert (ours.image_size, ours.epochs, ours.batch_size, ours.lr, ours.weight_decay) == (
        512,
        120,
        64,
        0.002,
        0.0005,
    )


def test_the_whole_paper_is_every_run_once():
    runs = cost.paper_runs()
    assert (
        len({e.hash() for e in runs}) == len(runs)
        and sum(e.student.endswith(("R101", "VGG19")) for e in runs) == 3
    )
    frame = cost.costs(runs, A100, (1, 8))
    assert (frame.source == "counted").all()
    one, eight = (frame[frame.gpus == n].hours.sum() for n in (1, 8))
    assert one == pytest.approx(8 * eight)
    assert f"{round(one, -2):,.0f} A100 hours" in (ROOT / "docs" / "cluster.md").read_text()


def test_the_learning_rate_follows_the_batch():
    assert experiment("coco", "FasterRCNN-R50").lr == 0.02
    assert experiment("coco", "FasterRCNN-R50", batch_size=64).lr == pytest.approx(0.08)
    assert experiment("coco", "FasterRCNN-R50", batch_size=64, lr=0.03).lr == 0.03  # an explicit lr is kept
    assert (
        experiment("mini", "FasterRCNN-R50", batch_size=16).lr == experiment("mini", "FasterRCNN-R50").lr
    )  # AdamW
    with pytest.raises(ValueError, match="accumulate=0 must be positive"):
        Experiment(accumulate=0)


def test_seconds_and_hours_of_the_bench_on_this_machine(tmp_path, monkeypatch):
    """Throughput of the smallest student, written and read back."""
    from c2dlib.cluster import bench

    torch.set_num_threads(1)
    monkeypatch.setattr(bench, "BENCH", tmp_path)
    monkeypatch.setattr(bench, "METHODS", ["baseline"])
    assert bench.throughput("cpu", ["SSD300-VGG16"], 1) == 0
    (row,) = cost.read_bench("throughput", tmp_path)
    assert (
        row["student"] == "SSD300-VGG16"
        and row["images_per_second"] > 0
        and row["loaded_per_core_second"] > 1
    )


def test_a_device_that_computes_otherwise_is_found(monkeypatch, capsys):
    """The CPU against itself; then against itself with every weight larger by 3 %."""
    from c2dlib.cluster import bench

    torch.set_num_threads(1)
    assert bench.agreement("cpu", steps=2) == 0
    out = capsys.readouterr().out
    assert "of a term 0.0e+00" in out and "cosine of the gradients 1.000000" in out
    right, made = bench.random_step, []

    def random_step(e, device):
        step, teacher = right(e, device)
        made.append(step)
        with torch.no_grad():
            for parameter in step.parameters() if len(made) == 2 else ():
                parameter.mul_(1.03)
        return step, teacher

    monkeypatch.setattr(bench, "random_step", random_step)
    assert bench.agreement("cpu", steps=1) == 1 and "OVER" in capsys.readouterr().out
