"""Tables, figures and the page that shows them."""

import base64
import csv
import json
import math
import re
from html import escape
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from experiments import report
from experiments.lab import figures, paper, paper_figures, report_text, tables
from experiments.lab.items import ITEMS, item_names
from experiments.lab.report_images import data_uri
from experiments.lab.results import read_report
from experiments.lab.statistics import Interval
from vit_jax.figures import heads, style, tiles

TABLE = {
    "caption": "Accuracy (%)",
    "side": "ours",
    "columns": ["arm", "test", "runs"],
    "rows": [
        ["1-D | stem", {"mean": 64.2061, "std": 0.31, "n": 3}, 3],
        ["<none>", {"mean": 61.382, "std": None, "n": 1}, 1],
        ["relative", None, 1000],
    ],
}


def record(name: str = "shapes", **changes) -> dict:
    """A result as an experiment leaves it."""
    return {
        "name": name,
        "item": "Fig. 8",
        "title": "Shapes",
        "question": "Deeper or wider?",
        "scale": "mini",
        "status": "done",
        "tables": [TABLE],
        "figures": [{"caption": "Depth", "ours": "ours.png", "paper": "paper.png"}],
        "claims": [
            {
                "claim": "Depth helps <most>",
                "criterion": "depth minus width is above 0",
                "verdict": "supported",
                "numbers": "+2.1 points",
                "comment": "",
                "headline": False,
            }
        ],
        "runs": {
            "count": 18,
            "seeds": 2,
            "seconds": 412.0,
            "hardware": "2 CPU cores",
            "versions": {"jax": "0.10"},
            "date": "2026-01-01",
        },
        "config": {"model": {"depth": 4}},
        "overrides": {"deep": {"model.depth": 8}},
        "command": f"python -m experiments.{name} --scale mini",
        "notes": "Short runs",
    } | changes


def leave(folder: Path, result: dict) -> Path:
    place = folder / result["name"]
    place.mkdir(parents=True)
    (place / "result.json").write_text(json.dumps(result))
    for figure in result["figures"]:
        for name in filter(None, (figure["ours"], figure["paper"])):
            Image.new("RGB", (4, 4)).save(place / name)
    return place


# ---- tables ----


def test_cells_have_the_digits_of_their_spread():
    assert tables.written(TABLE) == [
        ["1-D | stem", "64.2 ± 0.3", "3"],
        ["<none>", "61.4", "1"],
        ["relative", "–", "1,000"],
    ]
    assert tables.column_digits([{"mean": 64.2, "std": 0.14, "n": 2}]) == 2
    # One pair of close seeds among others; percentages have a decimal at least.
    spreads = (0.02, 0.03, 0.04, 1.5, 3.0)
    cells = [{"mean": 50.0, "std": std, "n": 2} for std in spreads]
    assert tables.column_digits(cells) == tables.column_digits(cells[4:]) == 1
    assert tables.column_digits([0.61382, 0.64206]) == 3
    assert tables.column_digits([100.0, 3]) == 0
    assert tables.column_digits([]) == 0
    assert tables.cell_text(math.nan, 1) == "diverged"


def test_cells_of_seeds():
    cell = tables.mean_cell([0.5, 0.7], 100)
    assert cell == {"mean": 60, "std": pytest.approx(14.142, abs=1e-3), "n": 2}
    assert tables.mean_cell([0.5])["std"] is None
    assert tables.mean_cell([]) is None


def test_markdown_and_html_tables():
    text = tables.markdown_table(TABLE)
    assert text.splitlines()[:3] == [
        "| arm | test | runs |",
        "| --- | --: | --: |",
        r"| 1-D \| stem | 64.2 ± 0.3 | 3 |",
    ]
    page = tables.html_table(TABLE)
    assert "&lt;none&gt;" in page and "<none>" not in page
    assert page.count("<tr>") == 4
    assert '<td class="number">64.2 ± 0.3</td>' in page
    rows = [["+2.34", "86M"], ["n/a", "12 px"]]
    texts = tables.markdown_table({"columns": ["off by (%)", "size"], "rows": rows})
    assert texts.splitlines()[1] == "| --: | --- |"


def test_a_short_row_is_an_error():
    with pytest.raises(ValueError, match="3 columns and a row of 1 cells"):
        tables.written(TABLE | {"rows": [["1-D"]]})


# ---- the paper's numbers ----


def test_averages_of_the_paper_are_those_that_it_prints():
    """Table 7 prints the averages of two models that Table 6 has too."""
    rows = {(row["name"], row["epochs"]): row["average_5"] for row in paper.TABLE_6}
    for model, optimizers in paper.TABLE_7.items():
        assert rows[model, 7] == pytest.approx(optimizers["Adam"]["Average"], abs=0.006)
        for row in optimizers.values():
            five = [row[name] for name in paper.TABLE_7_COLUMNS[:-1]]
            assert np.mean(five) == pytest.approx(row["Average"], abs=0.006)


def test_means_of_vtab_are_those_of_the_tasks():
    for row in paper.TABLE_9.values():
        mean = np.mean([row[task] for task in paper.TABLE_9_TASKS])
        assert mean == pytest.approx(row["Mean"], abs=0.06)
    huge = paper.TABLE_9["ViT-H/14 JFT"]
    groups = [np.mean([huge[t] for t in ts]) for ts in paper.TABLE_9_GROUPS.values()]
    assert groups == pytest.approx(paper.FIGURE_2["ViT-H/14"][1:], abs=0.25)


def test_tables_of_the_paper_agree_where_they_should():
    six = {(row["name"], row["epochs"]): row for row in paper.TABLE_6}
    jft = paper.TABLE_5["JFT-300M"]
    for name, epochs in (("ViT-B/32", 7), ("ViT-L/32", 7), ("ViT-L/16", 14)):
        assert jft["ImageNet"][name] == six[name, epochs]["imagenet"]
    assert len(paper.TABLE_6) == 18
    assert "ViT-H/14" not in paper.TABLE_5["ImageNet"]["ReaL"]
    assert paper.TABLE_2["ViT-H/14 JFT"]["VTAB"] == (77.63, 0.23)


# ---- figures ----

CURVES = [
    {"name": "ViT", "x": [10, 100], "y": [0.2, 0.6], "std": [0.1, 0.1]},
    {"name": "ResNet", "x": [10, 100], "y": [0.3, None], "family": "ResNet"},
]


def rows_of(path: Path) -> list[list[str]]:
    with path.with_suffix(".csv").open() as file:
        return list(csv.reader(file))


def check_files(path: Path) -> None:
    with Image.open(path) as picture:
        assert picture.convert("L").getextrema()[0] < 200  # something is drawn
    ElementTree.parse(path.with_suffix(".svg"))


def test_curves_leave_the_numbers_that_they_draw(tmp_path):
    path = figures.lines(
        {"one": CURVES, "two": CURVES},
        tmp_path / "curves.png",
        x_label="images",
        y_label="accuracy",
        reference=(0.1, "chance"),
    )
    check_files(path)
    rows = rows_of(path)
    assert rows[0] == ["panel", "series", "label", "images", "accuracy", "std"]
    assert rows[1] == ["one", "ViT", "", "10", "0.2", "0.1"]
    assert rows[4] == ["one", "ResNet", "", "100", "", ""]
    assert len(rows) == 1 + 2 * 4


def test_the_same_figure_is_the_same_bytes(tmp_path):
    files = []
    for name in ("a", "b"):
        path = tmp_path / name / "same.png"
        figures.lines({"": CURVES}, path, x_label="x", y_label="y")
        files.append([path.with_suffix(s).read_bytes() for s in (".png", ".svg")])
    assert files[0] == files[1]


def test_bars_and_heads(tmp_path):
    path = figures.bars(
        {"all": {"ViT": (60, 1.0), "R50": (50, None)}, "some": {"ViT": (40, None)}},
        tmp_path / "bars.png",
        y_label="accuracy (%)",
        families={"ViT": "ViT", "R50": "ResNet"},
    )
    check_files(path)
    assert rows_of(path)[1:] == [
        ["all", "ViT", "60", "1.0"],
        ["all", "R50", "50", ""],
        ["some", "ViT", "40", ""],
    ]
    distances = np.arange(6.0).reshape(3, 2)
    path = heads.head_distances(
        {"ViT": distances},
        tmp_path / "heads.png",
        families={"ViT": "ViT"},
        uniform=16.6,
    )
    check_files(path)
    assert rows_of(path)[-1] == ["ViT", "2", "1", "5.0"]


@pytest.mark.parametrize("number", [2, 3, 4, 5, 8, 9, 11, 12, 13])
def test_the_papers_figures_are_drawn(tmp_path, number):
    path = getattr(paper_figures, f"figure_{number}")(tmp_path / "paper.png")
    check_files(path)
    assert len(rows_of(path)) > 6


def test_colours_tell_the_family_and_dashes_the_model():
    curves = [
        {"name": name, "x": [1], "y": [1], "family": paper_figures.family_of(name)}
        for name in ("ViT-B/16", "R50+ViT-B/16", "R50x1", "ViT-L/16")
    ]
    styles = style.styles_of(curves)
    assert [style["marker"] for style in styles] == ["o", "s", "^", "o"]
    assert [s["color"] for s in styles[:3]] == [
        style.COLOURS[family][0] for family in ("ViT", "hybrid", "ResNet")
    ]
    assert styles[0]["color"] != styles[3]["color"]
    assert styles[0]["linestyle"] != styles[3]["linestyle"]


def test_names_are_moved_apart_and_no_further():
    assert style._apart([0, 1, 50], 10) == [-4.5, 5.5, 50]
    assert style._apart([0, 20], 10) == [0, 20]
    # The third is far from the pair's middle, but not from its upper name.
    moved = style._apart([0, 1, 12], 10)
    assert moved == pytest.approx([-17 / 3, 13 / 3, 43 / 3])
    # The third pushes the pair's block, all three keep their mean.
    assert style._apart([0, 2, 7], 10) == [-7, 3, 13]


def test_short_numbers():
    shown = [style.short_number(x) for x in (0.3, 30, 3e3, 1.5e6, 303e6)]
    assert shown == ["0.3", "30", "3k", "1.5M", "303M"]


def test_tiles(tmp_path):
    similarity = np.eye(6).reshape(2, 3, 2, 3)
    path = tiles.similarity_tiles({"learned": similarity}, tmp_path / "s.png")
    check_files(path)
    assert rows_of(path)[2] == ["learned", "0", "1", *"0.0 1.0 0.0 0.0 0.0 0.0".split()]
    filters = np.random.default_rng(0).normal(size=(9, 4, 4, 3))
    path = tiles.filter_tiles(filters, tmp_path / "f.png")
    check_files(path)
    assert float(rows_of(path)[9][1]) == pytest.approx(filters[8, 0, 0, 0], abs=1e-5)


def test_tiles_stand_in_rows_with_gaps():
    mosaic = tiles._mosaic(np.arange(3.0).reshape(3, 1, 1), columns=2, gap=1)
    nan = math.nan
    np.testing.assert_array_equal(mosaic, [[0, nan, 1], [nan] * 3, [2, nan, nan]])


def test_attention_lights_the_image(tmp_path):
    images = np.full((2, 8, 8, 3), 200, np.uint8)
    masks = np.zeros((2, 2, 2))
    masks[0, 0, 0], masks[1] = 3, 1
    lit = tiles.lit(images, masks)
    assert (lit[1] == 200).all()  # equal everywhere: the image itself
    assert lit[0, 0, 0, 0] == 200 and lit[0, 7, 7, 0] == 0
    with pytest.raises(ValueError, match="2 images need as many masks"):
        tiles.lit(images, masks[:1])
    check_files(tiles.rollout_rows(images, masks, tmp_path / "r.png", names=["a", "b"]))
    check_files(tiles.rollout_grid(images, masks, tmp_path / "g.png", columns=1))


def test_a_figure_is_a_png(tmp_path):
    with pytest.raises(ValueError, match=r"ends in \.png"):
        figures.lines({"": CURVES}, tmp_path / "a.pdf", x_label="x", y_label="y")


# ---- the report ----


def test_items_are_found_in_what_experiments_say():
    names = ["Table 2", "Table 5", "Table 6", "Fig. 3", "Fig. 5"]
    assert item_names("Tables 2, 5 and 6; Figs. 3/5") == names
    assert item_names("Fig. 7 left, Section B.1.2") == ["Fig. 7", "Section 4.6"]
    assert item_names("beyond the paper") == []
    assert all(item_names(item.name) == [item.name] for item in ITEMS)


class Tags(HTMLParser):
    """Which tags a page has, and the values of its attributes by name."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.seen, self.values = [], [], {}
        self.feed(text)
        assert self.open == [], "tags that are not closed"

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        for name, value in attrs:
            self.values.setdefault(name, []).append(value)
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def check_page(text: str) -> Tags:
    """Tags are closed, ids unique, links lead somewhere, nothing is from elsewhere."""
    tags = Tags(text)
    ids, links = tags.values["id"], tags.values["href"]
    assert len(ids) == len(set(ids))
    assert {link.removeprefix("#") for link in links} <= set(ids)
    assert all(s.startswith("data:image/webp;") for s in tags.values.get("src", []))
    assert "link" not in tags.seen
    headings = [int(tag[1]) for tag in tags.seen if re.fullmatch(r"h\d", tag)]
    steps = zip(headings, headings[1:], strict=False)
    assert headings[0] == 1 and all(new <= old + 1 for old, new in steps)
    return tags


def test_the_page_is_whole_and_needs_no_other_file(tmp_path):
    leave(tmp_path / "mini", record())
    page = report.write(tmp_path / "mini", output=tmp_path / "out" / "page.html")
    text = page.read_text()
    tags = check_page(text)
    assert len(tags.values["src"]) == len(tags.values["alt"]) == 2
    assert text.index("The paper: Depth") < text.index("Ours: Depth")  # left, right
    assert "Depth helps &lt;most&gt;" in text and "<most>" not in text
    for part in ("6 min 52 s", "depth minus width", "--scale mini", "2 CPU cores"):
        assert part in text


def test_the_markdown_names_its_images_from_where_it_lies(tmp_path):
    place = leave(tmp_path / "mini", record())
    report.write(tmp_path / "mini", output=tmp_path / "out" / "page.html")
    text = (tmp_path / "out" / "page.md").read_text()
    assert "![Ours: Depth](<../mini/shapes/ours.png>)" in text
    assert (tmp_path / "out/../mini/shapes/ours.png").samefile(place / "ours.png")
    assert "- ✓ **supported**: Depth helps <most>: +2.1 points." in text


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("{", "is not readable as JSON: Expecting"),
        ("[]", r"content is \[\]: wanted a JSON object"),
        (json.dumps({"name": "x"}), "json: item is missing"),
        (
            json.dumps(record(claims=[{"claim": "x"}])),
            r"\[0\].criterion is missing",
        ),
        (
            json.dumps(record(tables=[TABLE | {"side": "left"}])),
            "one of ours, paper, both",
        ),
        (json.dumps(record(tables=[TABLE | {"rows": [[1]]}])), "a cell in each column"),
        (
            json.dumps(record(claims=[record()["claims"][0] | {"verdict": "yes"}])),
            "is 'yes': wanted one of supported, not supported, undecided, out",
        ),
    ],
)
def test_broken_results_are_named_and_the_others_shown(tmp_path, broken, message):
    leave(tmp_path, record())
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "result.json").write_text(broken)
    contents = read_report([tmp_path])
    assert [one.record["name"] for one in contents.results] == ["shapes"]
    (problem,) = contents.problems
    assert "other/result.json" in problem
    assert re.search(message, problem)
    assert problem.split(": ")[-1] in report.write(tmp_path).read_text().replace(
        "&#x27;", "'"
    )


def test_a_missing_figure_is_named(tmp_path):
    (leave(tmp_path, record()) / "ours.png").unlink()
    (problem,) = read_report([tmp_path]).problems
    assert "ours.png is not there" in problem
    assert "ours.png is missing" in report.write(tmp_path).read_text()


def test_every_item_has_a_line_run_or_not(tmp_path):
    leave(tmp_path, record(item="Fig. 8, Table 1"))
    items = {item.name: item for item in read_report([tmp_path]).items}
    assert list(items) == [item.name for item in ITEMS]
    assert items["Fig. 8"].status == items["Table 1"].status == "done (mini)"
    assert items["Fig. 8"].anchors == ["shapes-mini"]
    assert items["Fig. 13"].status in ("not run", "no experiment")
    assert items["Fig. 13"].needs and not items["Fig. 13"].anchors


def test_two_scales_make_one_page(tmp_path):
    leave(tmp_path / "mini", record())
    leave(tmp_path / "mini", record("data_size", item="Fig. 4"))
    leave(tmp_path / "small", record(scale="small"))
    contents = read_report([tmp_path / "mini", tmp_path / "small"])
    anchors = ["data_size-mini", "shapes-small", "shapes-mini"]
    assert [one.anchor for one in contents.results] == anchors
    mini, small = report_text.scale_lines(contents.results)
    together = "mini: 2 experiments, 36 runs of together 13 min 44 s, each on 2 CPU"
    assert mini.startswith(together)
    assert small.startswith("small: 1 experiment, 18 runs")
    text = report.write(*map(tmp_path.joinpath, ("mini", "small"))).read_text()
    # The paper's figure and ours of each experiment, at its largest scale.
    tags = check_page(text)
    assert len(tags.values["src"]) == 4
    assert tags.values["data-scale"] == ["mini", "small", "mini"]
    assert '<select name="scale">' in text


def test_no_results_are_a_page_too_and_no_folder_is_an_error(tmp_path):
    assert "No results" in report.write(tmp_path).read_text()
    with pytest.raises(ValueError, match="no folder .*nowhere"):
        report.write(tmp_path / "nowhere")


def claim(text: str, verdict: str = "supported", **changes) -> dict:
    return record()["claims"][0] | {"claim": text, "verdict": verdict} | changes


def test_findings_stand_first_each_at_its_largest_scale(tmp_path):
    numbers = Interval(0.02, 0.01, 0.03, 0.998, "t, n = 3 (of 4)").text("points", 100)
    claims = [
        claim("Depth helps", headline=True, numbers=f"{numbers}; the paper: +4"),
        claim("Width helps", "undecided"),
        claim("JFT helps", "out of reach here"),
    ]
    leave(tmp_path / "mini", record(claims=claims))
    leave(tmp_path / "small", record(claims=claims[:1], scale="small"))
    folders = [tmp_path / "mini", tmp_path / "small"]
    text = report.write(*folders, output=tmp_path / "page.html").read_text()
    found, _, rest = text.partition("</section>")
    assert found.count("Depth helps") == 1 and '<a href="#shapes-small">' in found
    assert "Width helps" not in found and "Width helps" in rest
    assert (
        "4 claims: 2 supported, 1 undecided, 1 out of reach here. A 95 % interval "
        "misses the truth once in 20 times, so at most about 0 of the 3 that were "
        "judged by one may be wrong by chance; the findings"
    ) in found
    # The method of an interval is its tooltip, and in the claim's details.
    assert (
        'title="99.8 % CI: t, n = 3 (of 4)">[1.0, 3.0]</span>; the paper: +4' in found
    )
    assert "<p>99.8 % CI: t, n = 3 (of 4).</p>" in rest
    markdown = (tmp_path / "page.md").read_text()
    line = "- ✓ **supported**: Depth helps: 2.0 points [1.0, 3.0]; the paper: +4"
    assert f"{line} (Fig. 8, small)" in markdown.partition("## Fig. 8")[0]


def test_claims_are_marked_for_the_filter(tmp_path):
    claims = [claim("Depth helps"), claim("Width helps", "undecided")]
    leave(tmp_path, record(claims=claims))
    text = report.write(tmp_path).read_text()
    tags = check_page(text)
    assert tags.values["data-verdict"] == ["supported", "undecided"]
    # What the script asks for is there; without scripts the form is hidden.
    script = text.partition("<script>")[2]
    for name in ("filter", "claim", "result", "article", "nav"):
        assert re.search(rf'["#.]{name}\b', script), name
        assert re.search(rf'(class|id)="{name}"|<{name}\b', text), name
    assert '<form id="filter" hidden>' in text and '<select name="verdict">' in text
    assert '<option value="undecided">' in text
    assert '<option value="not supported">' not in text  # there is no such claim


def test_long_tables_are_folded(tmp_path):
    long = TABLE | {"caption": "Long", "rows": TABLE["rows"] * 5}
    leave(tmp_path, record(tables=[TABLE, long]))
    text = report.write(tmp_path).read_text()
    assert "<summary><strong>Ours</strong> Long (15 rows)</summary>" in text
    assert '<p class="side"><strong>Ours</strong> Accuracy (%)</p>' in text
    assert "Long" not in (tmp_path / "report.md").read_text()


def test_figures_are_small_and_keep_their_colours(tmp_path):
    random = np.random.default_rng(0)
    # Thousands of pale colours, and one blue line, a pixel wide.
    drawing = random.integers(235, 256, (200, 300, 3), np.uint8)
    drawing[50, 100:200] = 0, 114, 178
    noise = random.integers(0, 256, (200, 300, 3), np.uint8)
    shown = []
    for name, pixels in (("drawing", drawing), ("photograph", noise)):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
        kind, _, data = data_uri(tmp_path / f"{name}.png").partition(",")
        assert kind == "data:image/webp;base64"
        shown.append(base64.b64decode(data))
    pixels = np.asarray(Image.open(BytesIO(shown[0]))).astype(int)
    assert abs(pixels - drawing).max() < 16
    assert len(shown[1]) < (tmp_path / "photograph.png").stat().st_size / 3


def test_the_committed_page_is_small_and_has_every_claim():
    folder = Path("docs/results")
    text = (folder / "report.html").read_text()
    assert len(text.encode()) < 1_500_000
    tags = check_page(text)
    results = [json.loads(path.read_text()) for path in folder.rglob("result.json")]
    verdicts = [claim["verdict"] for one in results for claim in one["claims"]]
    assert verdicts and sorted(tags.values["data-verdict"]) == sorted(verdicts)
    for one in results:
        assert f"{one['name']}-{one['scale']}" in tags.values["id"]
        for claim in one["claims"]:
            assert escape(claim["claim"]) in text


def test_tables_of_the_paper_stand_before_ours():
    sides = ("ours", "ours", "paper", "both", "ours")
    shown = report_text.interleaved([{"side": side} for side in sides])
    assert [t["side"] for t in shown] == ["both", "paper", "ours", "ours", "ours"]


def test_durations():
    shown = [report_text.duration(s) for s in (3.21, 45.2, 412, 7500)]
    idle = {"count": 0, "seeds": 0, "seconds": 134}
    assert report_text.effort(idle) == "no training, 2 min 14 s"
    assert shown == ["3.2 s", "45 s", "6 min 52 s", "2 h 5 min"]
