"""Comparisons with peers: rounds, ratios, tables; and two processes for real."""

import argparse
import json
import subprocess

import pytest

from benchmarks import commit, performance
from benchmarks.peers import lineup, tables, turns
from benchmarks.peers.lineup import Case, Peer

CASE = Case("ViT-Ti/16", 16, "float32", "train")
XEON = {
    "name": "Intel(R) Xeon(R) Processor, family 6 model 207",
    "cores": 2,
    "features": ["AVX2", "AMX"],
}


def row(version, *rates, loads=(0.0, 0.0, 0.5)):
    return {"version": version, "images/s": list(rates), "load_of_others": list(loads)}


def result(case=CASE, **peers):
    """Three rounds, of which others disturbed the last."""
    facts = {"date": "2026-11-29", "commit": "abc1234"}
    peers = {"ours": row("jax 1", 20.0, 30.0, 1.0)} | peers
    return case._asdict() | facts | {"peers": peers}


@pytest.fixture
def flags():
    """Parses flags as the commands do."""
    parser = argparse.ArgumentParser()
    lineup.add_arguments(parser)
    parser.set_defaults(device="cpu")
    return parser.parse_args


def test_only_quiet_rounds_count():
    measured = result(timm=row("torch 2", 10.0, 20.0, 100.0))
    assert turns.counted_rounds(measured) == [0, 1]
    assert turns.ratios(measured, "ours", "timm") == (1.75, 1.5, 2.0)
    assert turns.rates(measured, "timm") == (15, 10, 20)
    assert "2 quiet rounds of 3" in turns.report(measured)


def test_without_a_quiet_round_all_count_with_a_warning():
    measured = result(timm=row("torch 2", 10.0, 10.0, 10.0, loads=(0.2, 0.3, 0.4)))
    assert turns.counted_rounds(measured) == [0, 1, 2]
    assert "do not trust" in turns.report(measured)
    paragraph = tables.facts(XEON, [measured])
    assert "at most 50% of the CPUs. In 3 rounds they used more than 10%" in paragraph


def test_a_table_shows_each_of_ours_and_the_faster_layout():
    measured = result(
        **{
            "ours:new": row("jax 2", 40.0, 60.0, 1.0),
            "ours@main": row("jax 1", 10.0, 10.0, 1.0),
            "timm": row("torch 2", 10.0, 10.0, 10.0),
            "timm-channels-last": row("torch 2", 20.0, 20.0, 10.0),
        }
    )
    table = tables.table([measured, result(CASE._replace(batch=8))])
    head = ["model, batch", "dtype", "ours with", "images/s"]
    assert table["columns"] == [*head, "ours / timm", "ours / commit main", "rounds"]
    faster = "**1.25** (1.00-1.50), 20 channels last"
    first = ["ViT-Ti/16, 16", "float32", "jax 1", "25 (20-30)"]
    assert table["rows"][0] == [*first, faster, "**2.50** (2.00-3.00), 10", "2 of 3"]
    assert table["rows"][1][2:4] == ["jax 2", "50 (40-60)"]
    assert table["rows"][2] == ["ViT-Ti/16, 8", *first[1:], "", "", "2 of 3"]


def test_pages_keep_other_processors_and_text(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- begin peers -->\nold\n<!-- end peers -->\nafter\n")
    for cores in (2, 4, 4):
        processor = XEON | {"cores": cores}
        path = tmp_path / tables.file_name(processor)
        measured = tables.load(path, processor)
        measured["results"][CASE.name] = result()
        tables.save(path, measured)
        performance.write_page(page, tmp_path)
    names = [path.name for path in sorted(tmp_path.glob("*.json"))]
    start = "intel-xeon-processor-family-6-model-207"
    assert names == [f"{start}-2-cores.json", f"{start}-4-cores.json"]
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n")
    assert "old" not in text and text.count("### Intel") == 2
    assert text.count("**Training**") == 2 and "**Inference**" not in text
    # Lists of figures stand in a line each.
    assert '"images/s": [ 20.0, 30.0, 1.0 ]' in (tmp_path / names[0]).read_text()
    assert json.loads((tmp_path / names[0]).read_text())["results"][CASE.name]


@pytest.mark.parametrize(
    "page",
    [
        "no markers",
        "<!-- end peers -->\n<!-- begin peers -->\n",
        2 * "<!-- begin peers -->\n<!-- end peers -->\n",
    ],
)
def test_a_page_without_its_markers_is_an_error(page):
    with pytest.raises(ValueError, match="markers of peers"):
        tables.replace_block(page, "peers", "text")


def test_the_page_is_what_the_files_say(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(performance.PAGE.read_text())
    performance.write_page(page, performance.FOLDER)
    assert page.read_text() == performance.PAGE.read_text()


def test_the_processor(tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    text = "cpu family\t: 6\nmodel\t\t: 207\nmodel name\t: Intel(R) Xeon(R) Processor\n"
    cpuinfo.write_text(2 * f"{text}flags\t\t: fpu avx2 amx_bf16\n\n")
    found = tables.this_processor(cpuinfo)
    assert found == XEON | {"cores": found["cores"]} and found["cores"] > 0
    assert tables.this_processor(tmp_path / "none")["features"] == []


def test_who_takes_part():
    def names(model, dtype="float32"):
        case = Case(model, 8, dtype, "train")
        return [name for name in lineup.PEERS if lineup.takes_part(name, case)]

    timm = ["timm", "timm-compiled"]
    assert names("ViT-B/16") == [*timm, "google", "big_vision", "linen"]
    assert names("ViT-B/16", "bfloat16") == [*timm, "big_vision", "linen"]
    assert names("R50+ViT-B/16") == [*lineup.TIMM, "google"]
    assert names("BiT-R50x1") == [*lineup.TIMM]
    assert names("mini") == [*timm, "linen"]
    assert names("Mixer-B/16") == []


def test_peers_of_the_flags(flags, tmp_path):
    words = ["--jax-python", "new=env/python", "--google", str(tmp_path)]
    peers = lineup.lineup(flags(words), lineup.PEERS, tmp_path)
    assert [x.name for x in peers] == [
        *("ours", "ours:new", *lineup.TIMM, "google", "linen")
    ]
    assert peers[1].worker[0] == "env/python" and peers[-2].code == str(tmp_path)
    spec = lineup.specification(peers[4], CASE, flags([]))
    assert spec["compile_mode"] == "default" and not spec["channels_last"]
    assert spec["sizes"]["width"] == 192 and spec["sizes"]["pooling"] == "cls"


@pytest.mark.parametrize(
    ("words", "others", "message"),
    [
        (["--jax-python", "env/python"], [], "NAME=PATH"),
        (["--google", "no such"], ["google"], "--google: no folder no such"),
        (["--big-vision", "x"], ["big_vision"], "--big-vision: no folder x"),
        ([], ["timmm"], "no peer timmm"),
    ],
)
def test_peers_that_cannot_be(flags, tmp_path, words, others, message):
    with pytest.raises(ValueError, match=message):
        lineup.lineup(flags(words), others, tmp_path)


def test_the_tree_of_a_commit(tmp_path, monkeypatch):
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    monkeypatch.setattr(commit, "ROOT", tmp_path)
    (tmp_path / "a.py").write_text("x = 1\n")
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *words], cwd=tmp_path, check=True)
    tree = commit.unpack("HEAD", tmp_path / "tree")
    assert (tree / "a.py").read_text() == "x = 1\n"
    with pytest.raises(ValueError, match="no such commit"):
        commit.unpack("no such commit", tmp_path / "other")


class Fixed:
    """A worker whose steps take a fixed time."""

    def __init__(self, peer: Peer, log: list[str]) -> None:
        self.peer, self.log = peer.name, log
        parameters = 100 if peer.name == "big_vision" else 292
        self.facts = {"parameters": parameters, "version": "1"}
        self.seconds = {"ours": 0.5, "big_vision": 1.0}.get(peer.name, 0.25)

    def run(self, steps: int, mode: str) -> tuple[float, float]:
        self.log.append(f"{self.peer} {mode} {steps}")
        return steps * self.seconds, 0.0

    def close(self) -> None:
        self.log.append(f"{self.peer} closed")


def test_peers_work_in_turns_of_equal_time(flags, monkeypatch):
    log = []
    monkeypatch.setattr(turns, "start", lambda peer, *_: Fixed(peer, log))
    monkeypatch.setattr(turns, "wait_for_quiet", lambda _: None)
    words = ["--rounds", "2", "--seconds", "1"]
    peers = [Peer(name, ()) for name in ("ours", "big_vision")]
    measured = turns.compare(CASE, peers, flags(words))
    assert log[-6:-2] == 2 * ["ours train 2", "big_vision train 1"]
    assert log[-2:] == ["ours closed", "big_vision closed"]
    assert turns.ratios(measured, "ours", "big_vision").median == 2
    # 192 parameters less are the position of the class token, which only one lacks.
    peers[0] = Peer("timm", ())
    monkeypatch.setattr(lineup, "sizes_of", lambda _: {"width": 100})
    with pytest.raises(RuntimeError, match="differ in size"):
        turns.compare(CASE, peers, flags(words))


@pytest.mark.full
@pytest.mark.parametrize("mode", lineup.MODES)
def test_ours_beside_plain_linen(flags, tmp_path, mode):
    """One round of real processes, of which one has the tree of another commit."""
    words = ["--rounds", "1", "--seconds", "0.01", "--minutes", "0.1"]
    case = Case("mini", 2, "float32", mode)
    peers = lineup.lineup(flags(words), ["linen"], tmp_path)
    measured = turns.compare(case, peers, flags(words))
    assert {x["parameters"] for x in measured["peers"].values()} == {1217930}
    assert turns.ratios(measured, "ours", "linen").median > 0
