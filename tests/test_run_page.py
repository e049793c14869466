"""``sparseconv run --html``: everything is in the page, nothing is fetched, names are escaped."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from sparseconv import SparseTensor, voxelize
from sparseconv.models import MODELS
from sparseconv.scripts.network import build_network, output_stride
from sparseconv.scripts.run import run
from sparseconv.scripts.run_page.charts import MAX_POINTS, subsample

NAME = "<img src=x onerror=alert(1)>&'\".npy"
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chrome")


class Page(HTMLParser):
    """Tags, their attributes, the text outside scripts and styles, and the scripts."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.scripts: list[str] = []
        self._inside = ""
        self.feed(content)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        elif self._inside != "style":
            self.text.append(data)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    folder = tmp_path_factory.mktemp("page")
    points = np.random.default_rng(0).normal(0, 3, (6000, 4)).astype(np.float32)
    scan = folder / NAME
    np.save(scan, points)
    app = typer.Typer()
    app.command()(run)
    path = folder / "page.html"
    result = CliRunner().invoke(
        app, [str(scan), "--voxel-size", "0.25", "--out", str(folder / "out"), "--html", str(path)]
    )
    assert result.exit_code == 0, result.output
    return path, points


def plots(page: Page) -> dict[str, list[dict[str, Any]]]:
    """The traces of each chart, by the name of its element."""
    found = {}
    for script in page.scripts:
        match = re.search(r'Plotly\.newPlot\(\s*"(\w+)",\s*', script)
        if match:
            found[match[1]] = json.JSONDecoder().raw_decode(script, match.end())[0]
    return found


def unpacked(column: Any) -> np.ndarray:
    kinds = {"f4": "<f4", "f8": "<f8", "i1": "<i1", "i2": "<i2", "i4": "<i4", "u1": "<u1"}
    if isinstance(column, dict):
        return np.frombuffer(base64.b64decode(column["bdata"]), kinds[column["dtype"]])
    return np.array(column)


def test_nothing_is_fetched_and_names_are_text(written: tuple[Path, np.ndarray]) -> None:
    page = Page(written[0].read_text())
    allowed = {"html", "head", "meta", "title", "style", "script", "body", "h1", "h2", "p", "div"}
    allowed |= {"table", "thead", "tbody", "tfoot", "tr", "th", "td"}
    assert {tag for tag, _ in page.tags} <= allowed
    for tag, attributes in page.tags:
        assert not {"src", "href", "srcset", "data", "action", "onerror", "onload"} & set(attributes), tag
    policy = next(a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None and "default-src 'none'" in policy and "http" not in policy
    content = written[0].read_text()
    style = content[content.index("<style>") : content.index("</style>")]
    assert "url(" not in style and "@import" not in style
    assert NAME in "".join(page.text)
    # Plotly's own script first, then the three charts.
    assert len(page.scripts[0]) > 1_000_000
    assert not any("http" in json.dumps(traces) for traces in plots(page).values())


def test_the_charts_hold_the_run(written: tuple[Path, np.ndarray]) -> None:
    path, points = written
    page = Page(path.read_text())
    summary = json.loads((path.parent / "out" / "summary.json").read_text())
    charts = plots(page)
    assert set(charts) == {"layers", "input", "output"}
    dense, dilating, sparse = charts["layers"]
    for trace, name in ((sparse, "macs"), (dilating, "dilated_macs"), (dense, "dense_macs")):
        np.testing.assert_allclose(unpacked(trace["x"]), [2e-9 * layer[name] for layer in summary["layers"]])
    assert list(sparse["customdata"]) == [layer["name"] for layer in summary["layers"]]
    voxels = voxelize(points, 0.25)
    (cloud,) = charts["input"]
    drawn = np.stack([unpacked(cloud[axis]) for axis in "xyz"], 1)
    assert len(drawn) == summary["voxels"] <= len(voxels.indices)
    # Every drawn point is the centre of a voxel that holds a point of the scan.
    cells = {tuple(cell) for cell in np.floor(points[:, :3] / np.float32(0.25)).astype(int).tolist()}
    assert {tuple(cell) for cell in np.floor(drawn / 0.25).astype(int).tolist()} <= cells
    np.testing.assert_allclose(drawn / 0.25 % 1, 0.5, atol=0.01)
    (out,) = charts["output"]
    assert len(unpacked(out["x"])) == summary["output"]["voxels"]
    norms = unpacked(out["marker"]["color"])
    features = np.load(path.parent / "out" / "features.npz")["features"]
    np.testing.assert_allclose(norms, np.linalg.norm(features, axis=1), rtol=1e-5)
    text = "".join(page.text)
    for layer in summary["layers"]:
        assert layer["name"] in text and f"{layer['pairs']:,}" in text
    assert f"all {summary['voxels']:,} are shown" in text


@pytest.mark.parametrize("model", list(MODELS))
def test_strides_are_those_of_the_models(model: str) -> None:
    sites = torch.tensor([[0, 80, 80, 80], [0, 81, 80, 80]], dtype=torch.int32)
    output = build_network(model, 4)(SparseTensor(torch.ones(2, 4), sites, [161, 161, 161], 1)).encoded
    shape, stride = output.spatial_shape, output_stride(model)
    assert shape is not None and len(shape) == len(stride)
    for cells, width in zip(shape[::-1], stride, strict=True):
        # Two layers do not pad z: a cell and a bit are lost there.
        assert abs(161 / width - cells) < 1.5


@pytest.mark.parametrize("model", ["VoxelBackBone8x", "VoxelNeXtBackbone"])
def test_output_voxels_stand_where_their_input_does(tmp_path: Path, model: str) -> None:
    """34 cells of height, of which a guess from the shapes makes cells twice as high as they are."""
    points = np.random.default_rng(0).uniform([0, 0, 0, 0], [16, 16, 8.5, 1], (4000, 4)).astype(np.float32)
    np.save(tmp_path / "scan.npy", points)
    app = typer.Typer()
    app.command()(run)
    page, out = tmp_path / "page.html", tmp_path / "out"
    result = CliRunner().invoke(
        app,
        [
            *(str(tmp_path / "scan.npy"), "--model", model, "--voxel-size", "0.25", "--range", "0,0,0,16,16,8.5"),
            *("--out", str(out), "--html", str(page)),
        ],
    )
    assert result.exit_code == 0, result.output
    (cloud,) = plots(Page(page.read_text()))["output"]
    drawn = np.stack([unpacked(cloud[axis]) for axis in "xyz"], 1)
    with np.load(out / "features.npz") as arrays:
        cells = arrays["indices"][:, :0:-1] + 0.5
    np.testing.assert_allclose(drawn[:, :2], cells[:, :2] * 8 * 0.25, atol=1e-3)
    np.testing.assert_allclose(drawn[:, 2], cells[:, 2] * 16 * 0.25 if cells.shape[1] == 3 else 0.0, atol=1e-3)


def test_large_clouds_are_thinned() -> None:
    rows = subsample(10 * MAX_POINTS)
    assert len(rows) == MAX_POINTS == len(set(rows.tolist())) and (np.diff(rows) > 0).all()
    np.testing.assert_array_equal(subsample(7), np.arange(7))
    np.testing.assert_array_equal(rows, subsample(10 * MAX_POINTS))


@pytest.mark.parametrize("extra", [("--html", "no/such/page.html"), ("--jobs", "1", "--html", "a.html")])
def test_a_page_that_cannot_be_written_is_refused_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, extra: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save(tmp_path / "a.npy", np.ones((5, 4), np.float32))
    app = typer.Typer()
    app.command()(run)
    result = CliRunner().invoke(app, ["a.npy", "--out", "out", *extra])
    assert result.exit_code == 2 and "--html" in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium to open the page in")
def test_a_browser_draws_the_page_without_an_error(written: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    page = tmp_path / "watched.html"
    # What the page tries to fetch, and what goes wrong in it, ends in its title.
    watch = """<script>
    window.problems = [];
    window.addEventListener("error", e => window.problems.push(String(e.message)));
    document.addEventListener("securitypolicyviolation", e => window.problems.push("blocked " + e.blockedURI));
    console.error = (...all) => window.problems.push(all.join(" "));
    window.addEventListener("load", () => setTimeout(() => {
      const charts = [...document.querySelectorAll(".plotly-graph-div")];
      const drawn = charts.map(chart => chart.querySelectorAll("canvas, .bars").length);
      const names = performance.getEntriesByType("resource").map(resource => resource.name);
      const fetched = names.filter(name => !/^(data|blob):/.test(name));
      document.title = "DONE" + JSON.stringify({problems: window.problems, drawn, fetched});
    }, 4000));</script>"""
    page.write_text(written[0].read_text().replace("<title>", watch + "<title>", 1))
    command = [
        *(str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--enable-unsafe-swiftshader"),
        *("--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update"),
        *("--disable-sync", "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={tmp_path / 'profile'}"),
        *("--virtual-time-budget=20000", "--dump-dom", page.as_uri()),
    ]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    match = re.search(r"<title>DONE(.*?)</title>", result.stdout)
    assert match, result.stderr[-2000:]
    seen = json.loads(match[1].replace("&quot;", '"').replace("&amp;", "&"))
    assert seen["problems"] == [] and seen["fetched"] == []
    assert len(seen["drawn"]) == 3 and all(seen["drawn"]), seen
