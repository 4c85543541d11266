"""The pinned environment, the Makefile and CI agree with one another; nothing here installs a package."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MAKEFILE = (ROOT / "Makefile").read_text()
VARIABLES = re.findall(r"(?m)^([A-Z_]+) \?=", MAKEFILE)
needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def locked() -> dict[str, list[str]]:
    """name -> its entries in requirements.lock, one line each; several if a marker decides the version."""
    entries: dict[str, list[str]] = {}
    text = re.sub(r"(?m)^ *#.*\n", "", (ROOT / "requirements.lock").read_text())
    for entry in text.replace("\\\n", " ").splitlines():
        entries.setdefault(canonicalize_name(re.split("[=; ]", entry)[0]), []).append(entry)
    return entries


def make(*arguments: str, folder: Path = ROOT, **environment: str) -> subprocess.CompletedProcess:
    """Run make without the variables that an outer `make test` hands down."""
    outer = [*VARIABLES, "MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES"]
    environment = {name: value for name, value in os.environ.items() if name not in outer} | environment
    command = ["make", *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def dependencies() -> list[Requirement]:
    return [Requirement(line) for line in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]]


@pytest.mark.parametrize("requirement", dependencies(), ids=lambda requirement: requirement.name)
def test_every_dependency_is_locked_within_its_range(requirement):
    entries = locked().get(canonicalize_name(requirement.name), [])
    assert entries, f"{requirement.name} is missing from requirements.lock: run `make lock`"
    for entry in entries:
        version = re.match(r"\S+?==(\S+)", entry).group(1)
        assert requirement.specifier.contains(version), f"{requirement}, but locked is {version}: `make lock`"


def test_every_locked_package_has_an_exact_version_and_hashes():
    entries = [entry for versions in locked().values() for entry in versions]
    assert len(entries) > len(dependencies())
    for entry in entries:
        assert re.match(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+ ", entry), entry[:80]
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), entry[:80]


def test_environment_yml_is_the_same_environment():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    conda = [item for item in environment["dependencies"] if isinstance(item, str)]
    pip = [item for item in environment["dependencies"] if not isinstance(item, str)]
    python = next(Requirement(item) for item in conda if item.startswith("python"))
    assert python.specifier == SpecifierSet(PROJECT["requires-python"])
    assert pip == [{"pip": ["-r requirements.lock"]}]
    assert "pip" in conda and environment["name"] == PROJECT["name"]
    assert environment["channels"] == ["conda-forge", "nodefaults"]


def test_the_comments_name_tests_that_exist():
    names = re.findall(r"tests/[\w/]+\.py", (ROOT / "pyproject.toml").read_text() + MAKEFILE)
    assert names and not [name for name in names if not (ROOT / name).exists()]


@pytest.mark.parametrize("name", ["requirements.lock", "environment.yml", "Makefile", "pyproject.toml"])
def test_no_index_or_package_url(name):
    text = (ROOT / name).read_text()
    assert "://" not in text
    assert not re.search(r"--(extra-)?(index|find-links)", text)


def test_no_machine_path_in_any_committed_file():
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    names = subprocess.check_output(command, cwd=ROOT, text=True).split("\0")
    files = [ROOT / name for name in names if name]
    path = re.compile(rb"(?<![\w.-])/(root|work)/")
    assert not [str(file) for file in files if file.is_file() and path.search(file.read_bytes())]


@needs_make
def test_help_names_every_target_and_variable():
    text = make().stdout
    targets = re.findall(r"(?m)^([a-z][a-z0-9%-]*):", MAKEFILE)
    assert {"setup", "test", "reproduce-%", "lab", "lock", "clean"} <= set(targets) and "SCALE" in VARIABLES
    for name in targets + VARIABLES:
        assert re.search(rf"(?m)^  {re.escape(name)} +\w", text), f"{name} has no `## description` above it"


@needs_make
@pytest.mark.parametrize(
    "given, expected",
    [
        ([], "--scale mini --seeds 1"),
        (["SCALE=smoke", "DATA=a b"], "--scale smoke --data 'a b' --seeds 1"),
        (["DATA=it's"], """--scale mini --data "it's" --seeds 1"""),
        (["JOBS=2", "DEVICE=cuda:1"], "--scale mini --seeds 1 --jobs 2 --device cuda:1"),
        (
            ["SEEDS=3", "STUDENTS=A B", "METHODS=KDcls ours+FKD", "SET=steps=2 name=*"],
            "--scale mini --seeds 3 --students A B --methods KDcls ours+FKD --set steps=2 'name=*'",
        ),
        (["ARGS=--help"], "--scale mini --seeds 1 --help"),
    ],
)
def test_variables_reach_the_command_line(given, expected):
    printed = make("-n", "reproduce-table2", *given).stdout.splitlines()[-1]
    assert shlex.split(printed) == shlex.split(f".venv/bin/python -m c2dlib reproduce table2 {expected}")


@needs_make
@pytest.mark.parametrize(
    "given, expected",
    [
        ([], ""),
        (["DATA=a b"], "--data 'a b'"),
        (["NAME=groceries", "DATA=groceries"], "--data groceries --name groceries"),
    ],
)
def test_a_data_set_is_fetched_only_if_the_command_line_names_it(given, expected):
    """The environment's NAME is some systems' name of the machine."""
    printed = make("-n", "data", *given, NAME="machine").stdout.splitlines()[-1]
    assert shlex.split(printed) == shlex.split(f".venv/bin/python -m c2dlib data {expected}")


@needs_make
@pytest.mark.parametrize(
    "value", ["/tmp/a$b/c", "$(shell touch EXECUTED)", "${HOME}", "`touch EXECUTED`", "a'$x b"]
)
def test_make_takes_a_value_as_it_is_typed(tmp_path, value):
    """Nothing of it is expanded or executed, by this make or the one that `make reproduce` starts."""
    value = value.replace("EXECUTED", str(tmp_path / "executed"))
    without_setup = MAKEFILE.replace("setup:\n", "setup:\n\t@exit 0\n\nformer-setup:\n")
    (tmp_path / "Makefile").write_text(without_setup.replace(".venv/bin/python", "@echo"))
    given = [f"{name}={value}" for name in ("DATA", "SCALE", "PYTHON")]
    for target in ("reproduce-table1", "reproduce"):
        result = make(target, *given, folder=tmp_path)
        lines = [line for line in result.stdout.splitlines() if "reproduce table1" in line]
        assert lines and all(f"--data {value} " in line and f"--scale {value} " in line for line in lines)
    in_environment = make("reproduce-table1", folder=tmp_path, DATA=value).stdout
    assert f"--data {value} " in in_environment
    assert not (tmp_path / "executed").exists()


@needs_make
@pytest.mark.parametrize("value", ["x\ny", "x'\ntouch executed\n'", "x\n"])
def test_a_folder_with_a_line_break_is_refused(value):
    result = make("-n", "-i", "show-table1", f"DATA={value}")
    assert result.returncode == 2 and not result.stdout
    (line,) = result.stderr.splitlines()
    assert "DATA has a line break: rename the folder" in line


INTERRUPTED = """
import sys
from c2dlib import cli
def check_scale(*_, **__):
    raise KeyboardInterrupt
cli.check_scale = check_scale
sys.exit(cli.main(sys.argv[3:]))
"""


@needs_make
@pytest.mark.parametrize(
    "target, interrupted, given, environment, expected",
    [
        ("reproduce-table2", "table2", ["SEEDS=3"], {}, ["SEEDS=3"]),
        ("show-table1", "table1", ["DATA=it's $x"], {"SCALE": "smoke"}, ["SCALE=smoke", "DATA=it's $x"]),
        (
            "reproduce",
            "claims",
            ["SCALE=smoke"],
            {"NAME": "machine"},
            ["SCALE=smoke"],
        ),  # by the make it starts
    ],
)
def test_ctrl_c_under_make_names_the_command_of_make(
    checkout, target, interrupted, given, environment, expected
):
    without_setup = MAKEFILE.replace("setup:\n", "setup:\n\t@exit 0\n\nformer-setup:\n")
    (checkout / "Makefile").write_text(without_setup)
    (checkout / "interrupted.py").write_text(INTERRUPTED)
    (checkout / ".venv/bin").mkdir(parents=True)
    python = f'exec {shlex.quote(sys.executable)} interrupted.py "$@"'
    script(checkout / ".venv/bin/python", f'case "$*" in *" {interrupted}"*) {python};; esac')
    result = make(target, *given, folder=checkout, PYTHONPATH=str(ROOT), **environment)
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("Interrupted")]
    assert shlex.split(line.removeprefix("Interrupted. To go on: ")) == ["make", target, *expected]


@needs_make
def test_misspelt_variable_is_an_error():
    result = make("-n", "reproduce-table2", "SEED=3")
    assert result.returncode != 0 and "unknown variable SEED" in result.stderr and "SEEDS" in result.stderr


@pytest.fixture
def checkout(tmp_path):
    """A folder with the Makefile, a lock, and an `uv` that only notes how it was called."""
    folder = tmp_path / """it's "$HOME" {a} `b` Füße checkout"""
    (folder / "bin").mkdir(parents=True)
    (folder / "Makefile").write_text(MAKEFILE)
    (folder / "requirements.lock").write_text("one\n")
    (folder / "pyproject.toml").write_text("")
    script(folder / "bin/uv", 'sleep 0.2; echo "uv $* ${PIP_FIND_LINKS-} ${UV_FIND_LINKS-}" >>calls')
    return folder


def script(path: Path, body: str) -> None:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


SYNC = "uv pip sync --python .venv/bin/python --require-hashes requirements.lock"
INSTALL = "uv pip install --python .venv/bin/python --no-deps --no-build-isolation -e ."


@needs_make
def test_setup_installs_again_only_when_the_lock_changed(checkout):
    path = f"{checkout / 'bin'}:{os.environ['PATH']}"
    environment = {"PATH": path, "PIP_FIND_LINKS": "wheels", "UV_FIND_LINKS": "wheels"}
    calls = []
    for content in ("one\n", "one\n", "two\n"):
        (checkout / "requirements.lock").write_text(content)
        result = make("setup", f"PYTHON={sys.executable}", folder=checkout, **environment)
        assert result.returncode == 0, result.stderr
        calls.append([line.strip() for line in (checkout / "calls").read_text().splitlines()])
    assert calls == [[SYNC, INSTALL], [SYNC, INSTALL], [SYNC, INSTALL] * 2]


@needs_make
def test_pytorch_may_come_from_an_index_with_cpu_builds(checkout):
    """In the pinned versions; all else from the lock, without what only GPUs need; the index is kept."""
    shutil.copy(ROOT / "requirements.lock", checkout)
    script(checkout / "bin/uv", 'echo "$UV_DEFAULT_INDEX|$UV_INDEX|uv $*" >>calls')
    given = {
        "PATH": f"{checkout / 'bin'}:{os.environ['PATH']}",
        "UV_INDEX": "another",
        "UV_DEFAULT_INDEX": "",
    }
    assert (
        make(
            "setup", f"PYTHON={sys.executable}", "TORCH_INDEX=cpu builds", folder=checkout, **given
        ).returncode
        == 0
    )
    (torch,), (torchvision,) = locked()["torch"], locked()["torchvision"]
    pinned = " ".join(entry.split()[0] for entry in (torch, torchvision))
    calls = [
        f"|another|{SYNC.replace('requirements.lock', '.venv/without-torch.txt')}",
        f"cpu builds||uv pip install --python .venv/bin/python --no-deps {pinned}",
        f"|another|{INSTALL}",
    ]
    assert (checkout / "calls").read_text().splitlines() == calls
    kept = set(re.findall(r"(?m)^([A-Za-z0-9._-]+)==", (checkout / ".venv/without-torch.txt").read_text()))
    assert {"timm", "numpy"} <= {canonicalize_name(name) for name in kept} < set(locked())
    assert not [name for name in kept if re.match(r"torch|triton|nvidia|cuda", name)]
    assert make("setup", folder=checkout, **given).returncode == 0  # the index is kept
    assert (checkout / "calls").read_text().splitlines() == calls
    with open(checkout / "requirements.lock", "a") as file:
        file.write("\n")
    assert make("setup", folder=checkout, **given).returncode == 0
    assert (checkout / "calls").read_text().splitlines() == calls * 2


@needs_make
@pytest.mark.skipif(shutil.which("flock") is None, reason="flock is not installed")
def test_two_makes_at_once_install_once(checkout):
    path = f"{checkout / 'bin'}:{os.environ['PATH']}"
    with ThreadPoolExecutor() as pool:
        arguments = ("setup", f"PYTHON={sys.executable}")
        both = [pool.submit(make, *arguments, folder=checkout, PATH=path) for _ in range(2)]
    assert [run.result().returncode for run in both] == [0, 0]
    assert (checkout / "calls").read_text().count("sync") == 1


@needs_make
def test_a_failed_install_is_not_taken_for_finished(checkout):
    script(checkout / "bin/uv", "exit 3")
    path = f"{checkout / 'bin'}:{os.environ['PATH']}"
    for _ in range(2):
        assert make("setup", f"PYTHON={sys.executable}", folder=checkout, PATH=path).returncode != 0


@needs_make
def test_an_old_or_missing_python_is_named(checkout):
    old = f'exec {shlex.quote(sys.executable)} -c "import sys; sys.version_info = (3, 9, 18); $2"'
    script(checkout / "bin/old", old)
    result = make("setup", "PYTHON=bin/old", folder=checkout)
    assert result.returncode != 0 and "bin/old is Python 3.9.18" in result.stderr
    result = make("setup", "PYTHON=python0", folder=checkout)
    assert result.returncode != 0 and "there is no python0" in result.stderr
    assert not (checkout / ".venv").exists()


@needs_make
@pytest.mark.parametrize(
    "name", ["it's", 'a "b"', "'; touch executed; '", "$(touch executed)", "`touch executed` %s"]
)
def test_a_python_of_any_name_is_called_and_named_as_it_is_typed(checkout, name):
    """Nothing of it is executed: up to the first command that would install."""
    result = make("setup", f"PYTHON=./{name}", folder=checkout)
    assert result.returncode != 0 and f"there is no ./{name}: make setup PYTHON=PATH" in result.stderr
    old = f'exec {shlex.quote(sys.executable)} -c "import sys; sys.version_info = (3, 9, 18); $2"'
    script(checkout / name, old)
    result = make("setup", f"PYTHON=./{name}", folder=checkout)
    assert result.returncode != 0 and f"but ./{name} is Python 3.9.18. Name a newer one" in result.stderr
    script(checkout / name, f'exec {shlex.quote(sys.executable)} "$@"')
    script(checkout / "bin/uv", "exit 3")
    path = f"{checkout / 'bin'}:{os.environ['PATH']}"
    result = make("setup", f"PYTHON=./{name}", folder=checkout, PATH=path)
    assert result.returncode != 0 and (checkout / ".venv/bin/python").exists()
    assert not (checkout / "executed").exists()


@needs_make
def test_clean_keeps_results(checkout):
    caches = [checkout / name / "__pycache__" for name in ("c2dlib", "runs", "results")]
    for cache in caches:
        cache.mkdir(parents=True)
    assert make("clean", folder=checkout).returncode == 0
    assert [cache.exists() for cache in caches] == [False, True, True]


def test_ci_runs_what_the_readme_says():
    assert os.access(ROOT / ".ci/run", os.X_OK)
    lines = (ROOT / ".ci/run").read_text().splitlines()
    assert lines[0].endswith("bash") and "set -euo pipefail" in lines and lines[-1] == "make test"
    assert "make test" in (ROOT / "README.md").read_text()
