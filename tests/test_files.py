"""Files that are whole or not there; checkpoints that are checked before they are believed."""

import ast
import errno
import fcntl
import os
from pathlib import Path

import pytest
import torch

import c2dlib
from c2dlib import files
from c2dlib.files import parse_json, read_file, sha256, sweep, whole_folder, write_whole
from c2dlib.training.checkpoints import load_checkpoint, save_checkpoint


def test_write_whole_writes_text_and_bytes(tmp_path):
    path = tmp_path / "new" / "folder" / "file"
    for content in ("Grüße\n", b"\x00\xff", ""):
        write_whole(path, content)
        assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert [p.name for p in path.parent.iterdir()] == ["file"]
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("broken", ["replace", "fsync"])
@pytest.mark.parametrize("old", [b"old", None])
def test_a_full_disk_leaves_the_previous_file(tmp_path, monkeypatch, broken, old):
    path = tmp_path / "file"
    if old:
        path.write_bytes(old)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, broken, full)
    with pytest.raises(OSError, match="no space left") as error:
        write_whole(path, b"new" * 1000)
    assert str(path) in str(error.value) and error.value.errno == errno.ENOSPC
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == ([("file", old)] if old else [])


def test_an_interruption_leaves_the_previous_file(tmp_path, monkeypatch):
    write_whole(tmp_path / "file", "old")

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "file", "new")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("file", "old")]


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(OSError, match="taken"):
        write_whole(tmp_path / "taken" / "file", "text")


def test_leftovers_are_swept_but_not_files_that_are_being_written(tmp_path):
    path = tmp_path / "file"
    with files.temporary_file(path) as (_, temporary):
        left = tmp_path / ".file.abcdefgh.tmp"
        left.write_text("of a killed process")
        sweep(tmp_path)
        assert [p.name for p in tmp_path.iterdir()] == [Path(temporary).name]
    assert not list(tmp_path.iterdir())
    sweep(tmp_path / "nowhere")
    left.write_text("of a killed process")
    (tmp_path / ".another.abcdefgh.tmp").write_text("of another program")
    sweep(tmp_path, {"file"})
    assert [p.name for p in tmp_path.iterdir()] == [".another.abcdefgh.tmp"]


def test_a_file_swept_before_it_is_locked_is_begun_again(tmp_path, monkeypatch):
    real, made = files.tempfile.mkstemp, []

    def swept(*arguments):
        made.append(real(*arguments))
        if len(made) == 1:
            os.unlink(made[0][1])
        return made[-1]

    monkeypatch.setattr(files.tempfile, "mkstemp", swept)
    write_whole(tmp_path / "file", "text")
    assert (tmp_path / "file").read_text() == "text" and len(made) == 2


def test_a_full_disk_is_named_whoever_writes(tmp_path):
    path = tmp_path / "file"
    with pytest.raises(OSError, match=f"cannot write {path}.*no space left") as error:
        with files.errors_named(path), open("/dev/full", "w") as file:
            file.write("x" * 100000)
    with pytest.raises(OSError) as again, files.errors_named(tmp_path / "outer"):
        raise error.value
    assert again.value is error.value


def state(step: int) -> dict:
    return {
        "step": step,
        "modules": {"student": {"weight": torch.arange(6.0).view(2, 3) + step}},
        "optimizer": {"state": {0: {"step": torch.tensor(float(step))}}, "param_groups": [{"lr": 0.1}]},
        "log": [{"step": 10, "loss": 0.5}],
    }


def assert_state(found: dict, step: int) -> None:
    assert found["step"] == step and found["log"] == [{"step": 10, "loss": 0.5}]
    torch.testing.assert_close(found["modules"]["student"]["weight"], torch.arange(6.0).view(2, 3) + step)
    assert found["optimizer"]["param_groups"] == [{"lr": 0.1}]


def test_checkpoints_round_trip_and_replace_each_other(tmp_path):
    assert load_checkpoint(tmp_path / "nowhere") is None
    for step in (9, 10, 100):
        path = save_checkpoint(tmp_path, step, state(step))
        assert list(tmp_path.iterdir()) == [path]
        assert_state(load_checkpoint(tmp_path), step)


def truncated(content: bytes) -> bytes:
    return content[:-7]


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize("damage", [truncated, flipped, lambda content: b""])
def test_a_damaged_checkpoint_is_named_and_the_older_one_used(tmp_path, capsys, damage):
    older = save_checkpoint(tmp_path, 3, state(3))
    kept = older.read_bytes()
    newer = save_checkpoint(tmp_path, 20, state(20))
    newer.write_bytes(damage(newer.read_bytes()))
    assert load_checkpoint(tmp_path) is None
    assert str(newer) in capsys.readouterr().err
    older.write_bytes(kept)
    assert_state(load_checkpoint(tmp_path), 3)
    said = capsys.readouterr().err
    assert str(newer) in said and "damaged" in said and str(older) not in said


class Malicious:
    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def test_a_checkpoint_cannot_run_code(tmp_path):
    torch.save({"step": 1, "modules": Malicious(tmp_path / "ran")}, tmp_path / "bad")
    content = (tmp_path / "bad").read_bytes()
    (tmp_path / f"step-00000001.{sha256(content)[:16]}.pt").write_bytes(content)
    with pytest.raises(Exception, match="[Ww]eights"):
        load_checkpoint(tmp_path)
    assert not (tmp_path / "ran").exists()
    torch.load(tmp_path / "bad", weights_only=False)  # the file is dangerous, or this test says nothing
    assert (tmp_path / "ran").exists()


def test_nothing_in_the_library_unpickles():
    sources = sorted(Path(c2dlib.__file__).parent.rglob("*.py"))
    assert files.__file__ in map(str, sources)
    loads = 0
    for path in sources:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names = [a.name for a in node.names] + [getattr(node, "module", None)]
                assert not {"pickle", "joblib", "dill", "cloudpickle"} & set(names), path
            if isinstance(node, ast.Call):
                arguments = {k.arg: getattr(k.value, "value", None) for k in node.keywords}
                assert "allow_pickle" not in arguments, path
                if ast.unparse(node.func) in ("torch.load", "load_state_dict_from_url"):
                    assert arguments.get("weights_only") is True, f"{path}:{node.lineno}"
                    loads += 1
    assert loads


def test_a_folder_appears_whole_and_what_killed_processes_left_of_it_goes(tmp_path):
    target, left = tmp_path / "data", tmp_path / ".data-unfinished-killed"
    (left / "whole").mkdir(parents=True)
    (tmp_path / ".other-unfinished-killed").mkdir()
    with whole_folder(target) as first:
        assert not left.exists() and not target.exists()
        (first / "whole").mkdir()
        (first / "whole" / "file").write_text("first")
        with pytest.raises(KeyboardInterrupt), whole_folder(target) as second:
            assert first.exists() and second != first  # someone works in it
            raise KeyboardInterrupt
        assert first.exists() and not second.exists()
    assert (target / "file").read_text() == "first"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".other-unfinished-killed", "data"]


def test_a_folder_that_is_removed_before_it_is_locked_is_made_again(tmp_path, monkeypatch):
    """Another process that removes what killed ones left may see it in the moment between."""
    lock, removed = fcntl.flock, []

    def after_the_other(handle, operation):
        if not removed:
            removed.extend(tmp_path.iterdir())
            removed[0].rmdir()
        lock(handle, operation)

    monkeypatch.setattr(fcntl, "flock", after_the_other)
    with whole_folder(tmp_path / "data") as temporary:
        assert temporary != removed[0]
        (temporary / "whole").mkdir()
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_json_that_is_nested_too_deeply_is_a_value_error():
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_json("[" * 99999)


def test_a_pipe_is_no_file_that_is_waited_for(tmp_path):
    (tmp_path / "whole.txt").write_text("a")
    (tmp_path / "link.txt").symlink_to(tmp_path / "whole.txt")
    os.mkfifo(tmp_path / "pipe.txt")
    assert read_file(tmp_path / "link.txt") == b"a"
    for name in ("pipe.txt", "."):
        with pytest.raises(OSError, match="is no file"):
            read_file(tmp_path / name)
