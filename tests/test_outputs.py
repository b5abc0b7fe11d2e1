"""What commands write: whole files, in their own places, under names of any bytes."""

import errno
import io
import json
import os
import resource
import stat
from pathlib import Path

import jax
import numpy as np
import pytest
from attack.flags import parser_of

import vit_jax
from vit_jax import benchmark
from vit_jax.cli import Terminal
from vit_jax.evaluation.outcomes import write_csv
from vit_jax.interop import files
from vit_jax.interop.conversion import convert
from vit_jax.models import init_params
from vit_jax.storage import output
from vit_jax.storage.output import OutputError

STRANGE = "caf\udce9\n\x1b[31m\u202e"


@pytest.fixture
def run(tmp_path):
    """What tells the folder of a run."""
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    return folder


def tree(folder):
    """All paths in a folder, with the bytes of the files."""
    paths = sorted(folder.rglob("*"))
    return {path: path.read_bytes() if path.is_file() else None for path in paths}


@pytest.mark.parametrize("place", ["", "config.json", "new.json", "checkpoints/x"])
@pytest.mark.parametrize("is_folder", [False, True])
@pytest.mark.parametrize("read", [False, True])
def test_nothing_is_written_into_a_run(run, place, is_folder, read):
    before = tree(run)
    for results in (False, is_folder and place != "new.json"):
        with pytest.raises(OutputError, match="cannot be the output|is no folder"):
            output.check(
                run / place, [run] * read, is_folder=is_folder, results=results
            )
    assert tree(run) == before


def test_results_may_have_a_folder_in_a_run(run):
    output.check(run / "evaluation" / "x", [run], is_folder=True, results=True)
    output.check(run / "attention", [run], is_folder=True, results=True)
    with pytest.raises(OutputError, match="is read"):
        output.check(run / "attention", [run], is_folder=True)


def test_links_lead_to_no_other_place(run, tmp_path):
    (tmp_path / "alias").symlink_to(run)
    (tmp_path / "file").symlink_to(run / "config.json")
    (tmp_path / "free").symlink_to(tmp_path / "nowhere")
    for name in ("alias", "alias/new.json", "file"):
        with pytest.raises(OutputError, match="folder of a run"):
            output.check(tmp_path / name)
    with pytest.raises(OutputError, match="free is a link to .*nowhere"):
        output.check(tmp_path / "free")
    with pytest.raises(OutputError, match="free is a link"):
        output.write(tmp_path / "free", "x")
    assert not (tmp_path / "nowhere").exists()


def test_what_is_read_stays(tmp_path):
    folder, file = tmp_path / "model", tmp_path / "model" / "vit.npz"
    folder.mkdir()
    file.write_text("weights")
    for read in (folder, file, f"{file}:img"):
        with pytest.raises(OutputError, match="since .* is read"):
            output.check(file, [str(read)])
        with pytest.raises(OutputError, match="since .* is read"):
            output.check(folder, [read], is_folder=True)
    with pytest.raises(OutputError, match="since .*config.json is read"):
        output.check(folder / "config.json", [file])
    with pytest.raises(OutputError, match="since .* is read"):
        output.check(folder / "new.npz", [folder])
    output.check(folder / "new.npz", [file, "google/vit-base-patch16-224"])
    index = folder / "model.safetensors.index.json"
    index.write_text("{}")
    with pytest.raises(OutputError, match="since .*model is read"):
        output.check(folder / "model-00001.safetensors", [index])


def test_only_regular_files_are_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path / "pipe", Path("/dev/null")):
        with pytest.raises(OutputError, match="a pipe or a device"):
            output.check(place)
        with pytest.raises(OutputError, match="a pipe or a device"):
            output.write(place, "x")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    with pytest.raises(OutputError, match="is a folder: wanted the name of a file"):
        output.check(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="is no folder"):
        output.check(tmp_path / "file", is_folder=True)
    with output.filling(tmp_path / "new") as folder:
        (folder / "a").touch()
    os.mkfifo(tmp_path / "new" / "b")
    with pytest.raises(OutputError, match="new/b is a pipe"):
        with output.filling(tmp_path / "new") as folder:
            (folder / "a").write_text("changed")
            (folder / "b").touch()
    assert (tmp_path / "new" / "a").read_text() == ""


def test_a_place_is_tried_and_left_as_it_was(tmp_path):
    output.check(tmp_path / "a" / "b" / "x.json")
    output.check(tmp_path / "a" / "b", is_folder=True)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    for place in (tmp_path / "file" / "x", tmp_path / ("n" * 300)):
        with pytest.raises(OutputError, match="could not be written: (Not a d|File n)"):
            output.check(place)


def writers(folder):
    """(name, writes it) of every kind of output."""
    from matplotlib.figure import Figure

    from vit_jax.figures import pictures, style

    arrays = {"a": np.zeros(4096, np.float32)}

    def several(path):
        with output.filling(path) as new:
            files.write_folder(new, arrays, {"key": 1, "preprocessor_config": {"a": 1}})

    yield folder / "x.json", lambda path: output.write(path, "y" * 9000)
    yield folder / "x.npz", lambda path: files.write_npz(path, arrays)
    yield (
        folder / "x.safetensors",
        lambda path: files.write_safetensors(path, arrays, {}),
    )
    yield folder / "deep" / "x", several
    yield folder / "x.csv", lambda path: write_csv(path, ["a"], [["b" * 9000]])
    yield folder / "x.png", lambda path: pictures._save(Figure(), path)
    yield folder / "y.png", lambda path: style.save(Figure(), path, [["b" * 9000]])


def test_a_full_disk_leaves_what_was_there(tmp_path):
    """A limit on the size of files stands for it: a write fails in the middle."""
    for path, write in writers(tmp_path):
        for old in (False, True):
            if old and path.suffix:
                path.write_text("old")
            before = tree(tmp_path)
            soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (400, hard))
            try:
                with pytest.raises(OutputError) as caught:
                    write(path)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            assert str(path) in str(caught.value) and "\n" not in str(caught.value)
            assert output.TEMPORARY not in str(caught.value)
            assert tree(tmp_path) == before, path
        path.unlink(missing_ok=True)


@pytest.mark.parametrize("step", ["touch", "write_bytes", "mkdir", "replace", "fsync"])
def test_each_step_may_be_the_one_that_fails(tmp_path, monkeypatch, step):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(
        Path if hasattr(Path, step) and step != "replace" else os, step, full
    )
    with pytest.raises(OutputError, match="new/x.json could not be written: No space"):
        output.write(tmp_path / "new" / "x.json", "text")
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []


def test_names_of_any_bytes_are_written_with_escapes(tmp_path):
    text = json.dumps({"file": STRANGE}, ensure_ascii=False)
    output.write(tmp_path / "x.json", text)
    content = (tmp_path / "x.json").read_bytes()
    assert json.loads(content.decode())["file"] == STRANGE
    write_csv(tmp_path / "x.csv", ["name"], [[STRANGE]])
    assert (tmp_path / "x.csv").read_bytes() == (
        b"name\r\ncaf\\udce9\\n\\x1b[31m\\u202e\r\n"
    )


def test_no_name_reaches_the_terminal_raw():
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    print(STRANGE, "\tä", file=Terminal(stream), flush=True)
    assert stream.buffer.getvalue() == b"caf\\udce9\n\\x1b[31m\\u202e \t\\xe4\n"
    assert output.printable(STRANGE) == "caf\\udce9\\n\\x1b[31m\\u202e"


def test_weights_are_written_neither_into_a_run_nor_over_their_source(run, tmp_path):
    model = vit_jax.create_model("ViT-mu/4", num_classes=3, image_size=16)
    params = init_params(model, jax.random.key(0))
    for place in (run, run / "new", run / "checkpoints" / "x.safetensors"):
        before = tree(run)
        with pytest.raises(OutputError, match="is the folder of a run"):
            vit_jax.save(place, model, params, layout="timm")
        assert tree(run) == before
    source = tmp_path / "x.npz"
    vit_jax.save(source, model, params, layout="google")
    before = source.read_bytes()
    with pytest.raises(OutputError, match="since .*x.npz is read"):
        convert(source, source, layout="google", num_heads=model.num_heads)
    assert source.read_bytes() == before


def test_a_benchmark_tries_the_place_of_its_table_first(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "benchmark_model", lambda _: pytest.fail("it ran"))
    os.symlink(tmp_path / "x", tmp_path / "link.json")
    words = ["--model", "ViT-mu/4", "--json", str(tmp_path / "link.json")]
    arguments = parser_of("vit_jax.benchmark").parse_args(words)
    arguments.overrides = []
    with pytest.raises(OutputError, match="is a link to"):
        benchmark.main(arguments)
