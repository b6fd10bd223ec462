import base64
import io
import itertools
import json
import re
import shutil
import statistics
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import browser
import numpy as np
import pytest
from PIL import Image
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from ssl_runner.comparison import page
from ssl_runner.comparison.page import curves, texts
from ssl_runner.comparison.page.pictures import pictures
from ssl_runner.comparison.report import Column, Difference, Interval, Report, Row, Run

EVIL = "<script>alert(1)</script>"
KNN, LOSS = Column("knn/top1", "knn"), Column("loss", "loss", higher_is_better=False, percent=False)
CONFIG = {f"part{part}.key{key}": "a value" for part in range(10) for key in range(10)}


def make_run(folder: Path, seed: int, setting: dict, name: str | None = None, steps: int = 30) -> Run:
    """A run whose loss falls, with its metrics.jsonl."""
    folder.mkdir(parents=True)
    lines = [
        {"step": step, "train/loss": 5 / step**0.5 + seed, "eval/validation/knn/top1": 1 - 1 / (step + 1)}
        for step in range(1, steps + 1)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return Run(
        folder=folder,
        name=name or folder.name,
        status="finished",
        config=CONFIG | setting | {"seed": seed},
        config_hash=f"hash{seed}",
        seed=seed,
        metrics={},
        protocols={},
        dataset={},
        seconds=10.0 + seed,
        command=f"ssl-train seed={seed} " + " ".join(f"'{key}={value}'" for key, value in setting.items()),
        commit="0123456789abcdef",
    )


def interval(values: list[float], **more) -> Interval:
    mean = statistics.fmean(values)
    ends = (mean - 0.1, mean + 0.1) if len(values) > 1 else (None, None)
    return Interval(mean, *ends, values, **more)


def make_row(folder: Path, setting: dict, values: list[float], **more) -> Row:
    name = ",".join(f"{key}={value}" for key, value in setting.items()).replace("/", "-")
    runs = [make_run(folder / f"{name},seed={seed}", seed, setting) for seed in range(len(values))]
    return Row(setting, runs, {0: interval(values, **more)})


def make_report(folder: Path, keys: dict[str, list], seeds: int = 3) -> Report:
    """Every combination of the values; the last one is the best."""
    combinations = [dict(zip(keys, values, strict=True)) for values in itertools.product(*keys.values())]
    rows = [
        make_row(folder, setting, [(n + 1) / (len(combinations) + 1) + seed / 1000 for seed in range(seeds)])
        for n, setting in enumerate(combinations)
    ]
    rows[-1].figures[0] = replace(rows[-1].figures[0], best=True)
    varying = [key for key, values in keys.items() if len(values) > 1]
    return Report([folder], varying, [KNN], rows)


def log_picture(folder: Path, tag: str, step: int, size: tuple[int, int]) -> None:
    """A noisy picture, which is hard to compress."""
    file = io.BytesIO()
    noise = np.random.default_rng(step).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(noise).save(file, "PNG")
    image = Summary.Image(height=size[1], width=size[0], colorspace=3, encoded_image_string=file.getvalue())
    writer = EventFileWriter(str(folder))
    writer.add_event(Event(step=step, summary=Summary(value=[Summary.Value(tag=tag, image=image)])))
    writer.close()


class Elements(HTMLParser):
    """The elements of a page with their attributes, and the ones left open."""

    VOID = ("meta", "img", "line", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def written(report: Report, file: Path, **options) -> str:
    page.write(report, file, **options)
    return file.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    if browser.CHROMIUM is None:
        pytest.skip("Chromium is not installed here")
    with browser.browser(tmp_path_factory.mktemp("chromium") / "profile") as found:
        yield found


@pytest.fixture
def opened(chromium, tmp_path):
    """Opens a report in Chromium; afterwards, nothing may have been complained about or asked of another host."""

    def open_report(report: Report, **options) -> browser.Page:
        page.write(report, tmp_path / "report.html")
        chromium.open(tmp_path / "report.html", **options)
        return chromium

    yield open_report
    assert chromium.errors == []
    assert {address.split("#")[0] for address in chromium.asked} <= {(tmp_path / "report.html").as_uri()}


# without a browser


def test_the_page_is_well_formed_and_names_no_other_host(tmp_path):
    text = written(make_report(tmp_path, {"a": [1, 2]}), tmp_path / "report.html")
    elements = Elements(text)
    assert elements.open == []
    for name, attributes in elements.found:
        for attribute in ("src", "href"):
            address = attributes.get(attribute)
            assert address is None or address.startswith(("#", "./", "data:")), (name, address)
    assert not elements.named("link") and not re.search(r"@import|url\(", elements_style(text))
    (policy,) = [one["content"] for one in elements.named("meta") if one.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None and policy.startswith("default-src 'none'; ")
    assert "http:" not in policy and "https:" not in policy


def elements_style(text: str) -> str:
    return text.split("<style>")[1].split("</style>")[0]


def test_headings_are_in_order_and_tables_have_captions_and_scopes(tmp_path):
    report = make_report(tmp_path, {"a": [1, 2]})
    report = replace(report, baseline=0, differences=[Difference(1, 0, 0.1, 0.0, 0.2, 3, 0.25, 0.25)])
    elements = Elements(written(report, tmp_path / "report.html"))
    levels = [int(name[1]) for name, _ in elements.found if re.fullmatch(r"h[1-6]", name)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert len(elements.named("caption")) == len(elements.named("table")) == 2
    assert all(head.get("scope") in ("col", "row") for head in elements.named("th"))
    ids = [attributes["id"] for _, attributes in elements.found if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert all(one["href"] in {f"#{name}" for name in ids} for one in elements.named("a") if one["href"][0] == "#")


def test_a_hundred_runs_with_pictures_stay_under_eight_megabytes(tmp_path):
    report = make_report(tmp_path, {"a": list(range(5)), "b": [1, 2, 3, 4]}, seeds=5)
    log_picture(tmp_path / "logged", "views", 0, (300, 200))
    log_picture(tmp_path / "logged", "hard_negatives", 100, (300, 300))
    for row in report.rows:
        for run in row.runs:
            shutil.copytree(tmp_path / "logged", run.folder, dirs_exist_ok=True)
    text = written(report, tmp_path / "report.html")
    assert len(text.encode()) < 8_000_000
    shown = Elements(text).named("img")
    assert len(shown) >= 100


def test_figures_are_in_the_table_with_what_must_be_said_of_them(tmp_path):
    rows = [
        make_row(tmp_path, {"a": 1}, [0.5, 0.6, 0.7], best=True),
        make_row(tmp_path, {"a": 2}, [0.4, 0.5], tied=True),
        make_row(tmp_path, {"a": 3}, [0.3], episodes=0.01),
        make_row(tmp_path, {"a": 4}, [0.2]),
        Row({"a": 5}, [make_run(tmp_path / "other", 0, {"a": 5})], {}),
    ]
    text = written(Report([tmp_path], ["a"], [KNN], rows), tmp_path / "report.html")
    text = re.sub(r"</?span>", "", text)
    assert "<strong>60.00</strong>" in text and "50.00 to 70.00, 3 seeds" in text
    assert re.search(r"45\.00<span class=\"tie\"[^>]*>≈<", text) and "35.00 to 55.00, 2 seeds" in text
    assert "1 seed, ±1.00 over episodes" in text
    assert "1 seed, no interval" in text
    assert "not measured so" in text


def test_where_the_best_has_one_seed_nothing_counts_as_tested(tmp_path):
    rows = [make_row(tmp_path, {"a": 1}, [0.5], best=True), make_row(tmp_path, {"a": 2}, [0.4, 0.3], tied=True)]
    text = written(Report([tmp_path], ["a"], [KNN], rows), tmp_path / "report.html")
    assert "not tested against the best" in text
    assert "cannot be told apart" not in text


def test_notes_and_folders_without_a_result_are_on_the_page(tmp_path):
    report = make_report(tmp_path, {"a": [1, 2]})
    report = replace(report, notes=["Columns stand apart."], unfinished=[(Path("outputs/x"), "it is still running")])
    text = written(report, tmp_path / "report.html")
    assert "Columns stand apart." in text and "<code>outputs/x</code>: it is still running" in text


def test_a_report_without_a_finished_run_is_a_page_that_says_so(tmp_path):
    report = Report([tmp_path], [], [], [], unfinished=[(tmp_path / "x", "running")])
    text = written(report, tmp_path / "report.html")
    assert "No finished run was found" in text and Elements(text).named("table") == []


def test_links_to_run_folders_lead_there_from_where_the_page_lies(tmp_path):
    row = make_row(tmp_path / "runs #1", {"a": "50%"}, [0.5])
    text = written(Report([tmp_path], ["a"], [KNN], [row]), tmp_path / "pages" / "report.html")
    assert "./../runs%20%231/a%3D50%25%2Cseed%3D0/" in text
    assert texts.link(tmp_path / "javascript:alert(1)", tmp_path / "x.html") == "./javascript%3Aalert%281%29/"


def test_nan_and_infinite_values_are_no_numbers_in_the_data(tmp_path):
    row = make_row(tmp_path, {"a": float("inf")}, [float("nan"), 0.5])
    run = replace(row.runs[0], seconds=float("nan"))
    report = Report([tmp_path], ["a"], [KNN], [Row(row.setting, [run, row.runs[1]], row.figures)])
    data = written(report, tmp_path / "report.html").split('id="data">')[1].split("</script>")[0]
    (found,) = json.loads(data, parse_constant=pytest.fail)["rows"]
    assert found["figures"] == [None] and found["seconds"] == 11 and isinstance(found["values"][0], str)


def test_an_old_page_stays_whole_if_the_new_one_cannot_be_written(tmp_path, monkeypatch):
    report = make_report(tmp_path, {"a": [1, 2]})
    before = written(report, tmp_path / "report.html")
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError("the disk is full")))
    with pytest.raises(OSError, match="full"):
        page.write(replace(report, notes=["new"]), tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text() == before
    assert [one.name for one in tmp_path.iterdir() if "report" in one.name] == ["report.html"]


# curves


def test_a_curve_is_the_mean_of_its_seeds_between_the_lowest_and_the_highest(tmp_path):
    row = make_row(tmp_path, {"a": 1}, [0.5] * 3)
    first = curves.charts([row])[0]
    (series,) = first.series
    assert first.tag == "train/loss" and series.seeds == 3 and series.steps == list(range(1, 31))
    expected = [5 / step**0.5 for step in range(1, 31)]
    assert series.low == pytest.approx(expected, rel=1e-4)
    assert series.mean == pytest.approx([value + 1 for value in expected], rel=1e-4)
    assert series.high == pytest.approx([value + 2 for value in expected], rel=1e-4)


def test_figures_on_validation_images_are_in_percent(tmp_path):
    _, found = curves.charts([make_row(tmp_path, {"a": 1}, [0.5])])
    assert found.title == "knn top1 on validation images"
    assert found.series[0].mean[0] == 50 and found.percent


def test_a_mean_over_seeds_ends_where_the_first_of_them_ends(tmp_path):
    runs = [make_run(tmp_path / str(n), n, {}, steps=steps) for n, steps in enumerate((30, 20))]
    (series,) = curves.charts([Row({}, runs, {})])[0].series
    assert series.steps[-1] == 20
    assert series.mean[-1] == pytest.approx(5 / 20**0.5 + 0.5, rel=1e-4)


def test_a_long_curve_becomes_means_of_neighbours():
    steps = np.arange(1000.0)
    x, y = curves.thinned((steps, (-1.0) ** steps), 50)
    assert len(x) == 50
    assert x == pytest.approx(np.arange(50) * 20 + 9.5)
    assert y == pytest.approx(np.zeros(50))


def test_logs_that_are_missing_damaged_or_strange_leave_the_others(tmp_path):
    good, none, bad = (make_run(tmp_path / name, 0, {}) for name in ("good", "none", "bad"))
    (none.folder / "metrics.jsonl").unlink()
    lines = ["{", "[1]", '{"step": "a"}', '{"step": 1, "train/loss": NaN}', '{"step": 2, "train/loss": "x"}']
    (bad.folder / "metrics.jsonl").write_text("\n".join(lines))
    (series,) = curves.charts([Row({}, [good, none, bad], {})])[0].series
    assert series.seeds == 1 and len(series.steps) == 30


# pictures


def test_the_last_picture_of_each_tag_is_shown_small(tmp_path):
    log_picture(tmp_path, "views", 0, (1600, 400))
    log_picture(tmp_path, "negatives", 10, (100, 100))
    log_picture(tmp_path, "negatives", 20, (120, 100))
    ((views, negatives),) = pictures([tmp_path])
    assert (views.tag, views.step, views.width, views.height) == ("views", 0, 800, 200)
    assert (negatives.tag, negatives.step, negatives.width) == ("negatives", 20, 120)
    kind, data = negatives.address.split(",")
    assert kind == "data:image/webp;base64"
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (120, 100)


@pytest.mark.parametrize("budget", [1_000_000, 100_000, 30_000, 3_000, 0])
def test_pictures_stay_within_their_budget(tmp_path, budget):
    folders = [tmp_path / str(n) for n in range(3)]
    for folder in folders:
        log_picture(folder, "views", 0, (800, 300))
        log_picture(folder, "more", 1, (800, 300))
    found = pictures(folders, budget)
    assert sum(len(one.address) for run in found for one in run) <= budget
    assert [len(run) for run in found] == ([2] * 3 if budget > 50_000 else [len(found[0])] * 3)


def test_a_damaged_event_file_or_picture_is_passed_over(tmp_path):
    (tmp_path / "events.out.tfevents.1.a").write_bytes(b"\xff" * 40)
    image = Summary.Image(height=1, width=1, colorspace=3, encoded_image_string=b"no picture")
    writer = EventFileWriter(str(tmp_path))
    writer.add_event(Event(step=1, summary=Summary(value=[Summary.Value(tag="broken", image=image)])))
    writer.close()
    assert pictures([tmp_path, tmp_path / "missing"]) == [[], []]


# in a browser


def test_tables_and_charts_are_on_the_page(opened, tmp_path):
    shown = opened(make_report(tmp_path, {"loss.temperature": [0.1, 0.2]}))
    assert shown.texts("#settings tbody tr:first-child td")[:2] == ["0.1", "33.43\n23.43 to 43.43, 3 seeds"]
    assert shown.texts("#charts figure > :is(h3, h4)") == [
        "knn by temperature",
        "knn against training time",
        "Training loss",
        "knn top1 on validation images",
    ]
    levels = shown.run("[...document.querySelectorAll('h1, h2, h3, h4')].map(one => Number(one.tagName[1]))")
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    labels = shown.run("[...document.querySelectorAll('#charts svg[role=img]')].map(one => one.ariaLabel)")
    assert len(labels) == 4 and all(labels)
    axes = shown.texts("#charts svg [aria-label$='axis label']")
    assert {"training time of a run, seconds →", "training step →", "↑ knn, %", "loss.temperature"} <= set(axes)
    assert shown.texts("#curves .chart:first-child .legend li") == ["temperature=0.1", "temperature=0.2"]
    assert "say nothing about which is better" in shown.texts("#about-curves")[0]


def test_two_keys_make_a_heat_map_and_more_make_parallel_coordinates(opened, tmp_path):
    shown = opened(make_report(tmp_path / "two", {"a": [1, 2, 10], "b.c": ["x", "y"]}))
    assert shown.texts("#figures h3")[0] == "knn by a and c"
    cells = shown.run("document.querySelectorAll('#figures [aria-label=cell] rect').length")
    assert cells == 6
    numbers = shown.texts("#figures [aria-label=text] text")
    assert numbers == ["14.39", "28.67", "42.96", "57.24", "71.53", "85.81"]
    assert shown.texts("#figures [aria-label='x-axis tick label'] text")[:3] == ["1", "2", "10"]

    shown = opened(make_report(tmp_path / "three", {"a": [1, 2], "b": ["x", "y"], "c": [0.1, 0.2, 0.3]}))
    assert shown.texts("#figures h3")[0] == "knn over 3 keys"
    assert shown.run("document.querySelectorAll('#figures [aria-label=line] path').length") == 12


def test_nothing_is_drawn_for_what_does_not_exist(opened, tmp_path):
    report = make_report(tmp_path, {"a": [1]}, seeds=1)
    for row in report.rows:
        (row.runs[0].folder / "metrics.jsonl").unlink()
    shown = opened(report)
    assert shown.texts("#charts:not([hidden])") == []
    assert shown.run("document.querySelectorAll('svg[role=img]').length") == 0
    assert shown.texts("#settings tbody tr") != []


def test_rows_are_sorted_by_mouse_and_by_keyboard_and_missing_figures_come_last(opened, tmp_path):
    rows = [make_row(tmp_path, {"a": a}, [value]) for a, value in (("v10", 0.09), ("v9", 0.5), ("v2", 0.1))]
    rows.append(Row({"a": "v1"}, [make_run(tmp_path / "none", 0, {"a": "v1"})], {}))
    shown = opened(Report([tmp_path], ["a"], [KNN], rows))
    names, button = "#settings tbody td:nth-child(2)", "document.querySelectorAll('#settings thead button')"
    assert shown.texts(names) == ["v10", "v9", "v2", "v1"]
    shown.run(f"{button}[1].click()")
    assert shown.texts(names) == ["v1", "v2", "v9", "v10"]
    shown.run(f"{button}[2].focus()")
    shown.press("Enter")
    assert shown.texts(names) == ["v9", "v2", "v10", "v1"]
    heads = "[...document.querySelectorAll('#settings thead th[aria-sort]')].map(one => one.ariaSort)"
    assert shown.run(heads) == ["none", "none", "descending", "none"]
    shown.press("Enter")
    assert shown.texts(names) == ["v10", "v2", "v9", "v1"]
    assert shown.texts("#said") == ["Sorted by knn, %, ascending"]


def test_lower_is_better_where_the_column_says_so(opened, tmp_path):
    rows = [make_row(tmp_path, {"a": a, "b": 1}, [value]) for a, value in ((1, 0.3), (2, 0.2))]
    shown = opened(Report([tmp_path], ["a", "b"], [LOSS], rows))
    shown.run("document.querySelectorAll('#settings thead button')[3].click()")
    assert shown.texts("#settings tbody td:nth-child(2)") == ["2", "1"]
    assert shown.texts("#figures .ramp")[0].split() == ["0.3", "0.2", "(best)"]


def test_a_link_opens_the_runs_of_its_setting(opened, tmp_path):
    report = make_report(tmp_path, {"a": [1, 2]})
    log_picture(report.rows[1].runs[0].folder, "views", 0, (300, 100))
    shown = opened(report)
    shown.run("document.querySelector('#settings tbody tr:nth-child(2) .actions a').click()")
    shown.run("new Promise(done => setTimeout(done, 50))")
    opens = "[...document.querySelectorAll('details.setting')].map(one => one.open)"
    assert shown.run(opens) == [False, True]
    shown.run("document.querySelector('#setting-2 .pictures').open = true")
    shown.run("document.querySelector('#setting-2 img').decode()")
    assert shown.run("document.querySelector('#setting-2 img').naturalWidth") == 300
    assert shown.run("document.querySelector('#setting-2 img').alt") == "views of a=2,seed=0 after 0 steps"
    shown.run("document.querySelector('#setting-2 .config').open = true")
    assert "part0.key0: a value" in shown.texts("#setting-2 .config pre")[0]
    assert shown.texts("#setting-2 .config summary")[1] == "Config: 1 key unlike the first run's"


@pytest.mark.parametrize("allowed", [True, False])
def test_the_commands_of_a_row_are_copied(opened, tmp_path, allowed):
    report = make_report(tmp_path, {"a": ["it's", '"'], "b": [1, 2]}, seeds=2)
    shown = opened(report)
    write = "async text => { window.copied = text }" if allowed else "async text => { throw new Error('not allowed') }"
    shown.run(f"Object.defineProperty(navigator, 'clipboard', {{value: {{writeText: {write}}}}}) && true")
    shown.run("document.execCommand = () => { window.copied = document.activeElement.value; return true }; true")
    shown.run("document.querySelector('#settings tbody .copy').click()")
    said = "document.getElementById('said').textContent"
    look = f"(look = () => {said} ? done({said}) : setTimeout(look, 10))()"
    assert shown.run(f"new Promise(done => {{ let look; {look} }})") == "Copied"
    assert shown.run("window.copied").split("\n") == [run.command for run in report.rows[0].runs]


def test_names_and_values_from_run_folders_are_only_text(opened, tmp_path):
    value = f"</script>{EVIL}<img src=x onerror=alert(1)>"
    row = make_row(tmp_path, {"a": 1}, [0.5, 0.6])
    setting = {"a": value, EVIL: "'\"&{{ 7*7 }}"}
    runs = [
        replace(run, name=EVIL, config=run.config | setting, command=f"ssl-train {value}", commit=EVIL, status=EVIL)
        for run in row.runs
    ]
    other = make_row(tmp_path, {"a": 2, EVIL: "x"}, [0.4, 0.5])
    log_picture(runs[0].folder, EVIL, 0, (30, 30))
    report = Report(
        [Path(EVIL)],
        ["a", EVIL],
        [Column("knn/top1", EVIL)],
        [Row(setting, runs, row.figures), other],
        baseline=0,
        differences=[Difference(1, 0, 0.1, 0.0, 0.2, 2, 0.5, 0.5, note=value)],
        notes=[value],
        unfinished=[(Path(value), value)],
    )
    shown = opened(report)
    assert shown.run("document.querySelectorAll('script').length") == 6
    assert shown.run("document.querySelectorAll('img:not([alt])').length") == 0
    assert shown.texts("#settings tbody td:nth-child(2)")[0] == value
    assert shown.texts("#settings tbody td:nth-child(3)")[0] == setting[EVIL]
    shown.run("document.querySelectorAll('details').forEach(one => { one.open = true })")
    assert shown.texts("#setting-1 .run h3")[0] == EVIL
    assert shown.texts("#setting-1 .command pre")[0] == f"ssl-train {value}"
    assert shown.texts(".notes li")[0] == value


@pytest.mark.parametrize("dark", [False, True])
def test_on_a_phone_the_page_does_not_scroll_sideways_but_its_tables_do(opened, tmp_path, dark):
    keys = {"model.encoder.a_rather_long_name": ["a_long_value_of_a_key" * 3, 1], "b": [1, 2], "c": [1, 2]}
    shown = opened(make_report(tmp_path, keys), width=360, height=740, dark=dark)
    shown.run("document.querySelectorAll('details').forEach(one => { one.open = true })")
    assert shown.run("document.documentElement.scrollWidth") == 360
    assert shown.run("(box => box.scrollWidth > box.clientWidth)(document.querySelector('.scroll'))")
    widest = "Math.max(...[...document.querySelectorAll('.chart svg')].map(one => one.getBoundingClientRect().right))"
    assert shown.run(widest) <= 360


def test_texts_and_lines_stand_out_in_light_and_dark(opened, tmp_path):
    report = make_report(tmp_path, {"a": list(range(8))}, seeds=2)
    for dark in (False, True):
        shown = opened(report, dark=dark)
        names = ["paper", "ink", "soft", "link", *(f"c{number}" for number in range(1, 9))]
        style = "getComputedStyle(document.documentElement)"
        found = {name: shown.run(f"{style}.getPropertyValue('--{name}').trim()") for name in names}
        assert (luminance(found["paper"]) < 0.1) == dark
        for name in names[1:]:
            # WCAG 2.2: 4.5 for text, 3 for graphics
            assert contrast(found["paper"], found[name]) >= (3 if name.startswith("c") else 4.5), (dark, name)


def luminance(colour: str) -> float:
    """Relative luminance as WCAG 2.2 defines it."""
    parts = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def test_beyond_eight_settings_the_best_and_the_baseline_have_colours(opened, tmp_path):
    report = replace(make_report(tmp_path, {"a": list(range(20))}), baseline=0)
    shown = opened(report)
    names = shown.texts("#curves .chart:first-child .legend li")
    assert names == ["a=0", *(f"a={number}" for number in range(13, 20)), "12 others"]


def test_the_figure_of_the_charts_can_be_chosen(opened, tmp_path):
    report = make_report(tmp_path, {"a": [1, 2]})
    for row in report.rows:
        row.figures[1] = interval([0.1, 0.2, 0.4])
    shown = opened(replace(report, columns=[KNN, LOSS]))
    choose = "select => { select.value = '1'; select.dispatchEvent(new Event('change')) }"
    shown.run(f"({choose})(document.querySelector('select'))")
    assert shown.texts("#figures h3") == ["loss by a", "loss against training time"]


def test_a_page_that_renews_itself_keeps_what_a_person_did(chromium, tmp_path):
    report, file = make_report(tmp_path, {"a": [1, 2, 3]}), tmp_path / "report.html"
    page.write(report, file, refresh=1.5)
    chromium.open(file, height=300)
    chromium.run("document.querySelectorAll('#settings thead button')[2].click()")
    chromium.run("document.getElementById('setting-2').open = true; scrollTo(0, 200)")
    page.write(replace(report, notes=["renewed"]), file)
    while not chromium.texts(".notes li"):  # on a busy machine it may have renewed itself before
        chromium.wait("Page.loadEventFired")
    assert chromium.texts(".notes li") == ["renewed"]
    assert chromium.texts("#settings tbody td:nth-child(2)") == ["3", "2", "1"]
    assert chromium.run("document.getElementById('setting-2').open")
    assert chromium.run("scrollY") == 200
    assert chromium.run("document.body.dataset.refresh === undefined")
    assert chromium.errors == []
