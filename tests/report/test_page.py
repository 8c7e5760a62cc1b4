"""The page: everything that it shows is there, names are data in it, and in a browser it sorts, filters and complains of nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest

from mpqc.report.html import render
from mpqc.report.model import Fed
from mpqc.report.page import heat_map, layer_cells
from tests.browser import Page, opened
from tests.report.pages import EVIL, bench, page_report

ROWS = "[...document.querySelectorAll('#layers tbody tr')]"
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII="


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """A page of 150 layers."""
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(render(page_report(150)), encoding="utf-8")
    with opened(path) as page:
        yield page


def names(page: Page) -> list[str]:
    return list(page.run(f"{ROWS}.filter((row) => !row.hidden).map((row) => row.cells[1].textContent)"))


def click(page: Page, heading: str) -> None:
    page.run(f"[...document.querySelectorAll('#layers thead button')].find((item) => item.textContent === '{heading}').click()")


def test_it_shows_all_layers_and_complains_of_nothing(browser: Page) -> None:
    assert len(names(browser)) == 150
    assert browser.run("document.querySelector('.verdict h2').textContent").startswith("Verdict: inside the budget")
    assert browser.run("[...document.querySelectorAll('section')].map((part) => part.id)") == [
        "", "steps", "plan", "bits", "losses", "trades", "training", "input", "totals", "again",
    ]  # fmt: skip
    assert browser.complaints == []


def test_headings_sort_by_value_and_back(browser: Page) -> None:
    click(browser, "us")
    assert browser.run(f"{ROWS}[0].cells[9].textContent") == "500.0"
    click(browser, "us")
    assert browser.run(f"{ROWS}[0].cells[9].textContent") == "351.0"
    assert browser.run("document.querySelector('[aria-sort]').getAttribute('aria-sort')") == "ascending"
    click(browser, "MACs")
    assert browser.run(f"{ROWS}[0].cells[4].textContent") == "149,000"
    click(browser, "#")
    assert browser.run(f"{ROWS}.map((row) => Number(row.cells[0].textContent))") == list(range(1, 151))


def test_words_and_kinds_filter(browser: Page) -> None:
    browser.run("box = document.querySelector('#plan input'); box.value = 'features.14 CONV.2'; box.dispatchEvent(new Event('input'))")
    assert names(browser) == ["/features/features.14/block/conv.2/Conv", *(f"/features/features.{n}/block/conv.2/Conv" for n in (140, 143, 146, 149))]
    assert browser.run("document.querySelector('#plan output').textContent") == "5 of 150"
    browser.run("box.value = ''; list = document.querySelector('#plan select'); list.value = 'form'; list.dispatchEvent(new Event('change'))")
    assert len(names(browser)) == 30
    browser.run("list.value = ''; list.dispatchEvent(new Event('change'))")
    assert len(names(browser)) == 150


def test_a_click_shows_the_tensors_of_a_layer(browser: Page) -> None:
    browser.run("button = document.querySelectorAll('#layers td.name button')[7]; button.click()")
    detail = "document.querySelector('tr.detail')"
    assert browser.run(f"[...{detail}.querySelectorAll('h3')].map((item) => item.textContent)") == ["weights: weight 7", "output: output 7"]
    assert browser.run(f"{detail}.querySelectorAll('rect').length") == 96
    assert "codes reach from -1 to 1.5" in browser.run(f"{detail}.textContent")
    assert browser.run(f"[...{detail}.querySelectorAll('tr')].filter((row) => row.textContent.includes('chosen')).length") == 2
    browser.run("button.click()")
    assert browser.run(detail) is None
    assert browser.complaints == []


def test_names_are_shown_and_never_obeyed(browser: Page) -> None:
    assert names(browser)[: len(EVIL)] == [EVIL[0], EVIL[1], EVIL[2], "a\\u202eb", EVIL[4]]
    assert browser.run("document.title") == f"mpqc: {EVIL[0]} on cortex-a76"
    assert browser.run("document.querySelectorAll('img, [onload], [onerror]').length") == 0
    assert browser.complaints == []


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (390, False)])
def test_it_fits_the_window_and_its_colours(browser: Page, width: int, dark: bool) -> None:
    browser.show(width, 900, dark=dark)
    assert browser.run("document.documentElement.scrollWidth") <= width
    ground = browser.run("getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(20, 23, 27)" if dark else "rgb(255, 255, 255)")
    size = browser.run("parseFloat(getComputedStyle(document.querySelector('#bits svg .name')).fontSize)")
    shrunk = browser.run("(plot = document.querySelector('#bits svg'), plot.clientWidth / plot.viewBox.baseVal.width)")
    assert size * shrunk > 8  # pixels of the smallest name


def test_it_prints(browser: Page) -> None:
    assert browser.printed().startswith(b"%PDF")


def test_its_own_policy_lets_it_load_nothing_and_run_one_script() -> None:
    page = render(page_report(5))
    assert page.count("<script") == page.count("</script>") == 2
    assert re.search(r"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-[\w+/]{43}='", unescape(page))
    assert not re.search(r"(src|href)=.(?!#|data:image/png)", page.replace("src=x", ""))


def test_a_picture_is_shown_only_where_it_is_one() -> None:
    for kept, shown in ((PNG, True), ("", False), ('x" onerror="alert(1)', False), ("aGVsbG8=", False)):
        page = render(replace(page_report(5), fed=Fed("signed", 3, -1.0, 1.0, 0.0, kept)))
        assert (f"data:image/png;base64,{PNG}" in page) is shown
        assert "alert(1)&#34;" not in page


def test_old_reports_and_those_of_nothing_are_shown_too() -> None:
    bare = replace(page_report(3), sites=(), trade_offs=(), training=None, command="", verdict=None, loss_unit="", layers=())
    assert "Totals and proof" in render(bare)


def test_a_benchmark_has_its_column_its_table_and_where_it_is_of_a_board_its_waterfall() -> None:
    report = page_report(5)
    for how, plots in (("measured", 1), ("emulated", 0)):
        page = render(replace(report, bench=bench(report, how)))
        assert f'<button type="button">{how} us</button>' in page
        assert "not timed: no such engine" in page
        assert page.count(f"time of one run, {how} on Board 1") == 2 * plots  # heading, and for those who hear the page
        assert "throttled" in page
        assert "77.0" in page
    assert 'id="bench"' not in render(report)


@pytest.mark.parametrize("value", [0.0, -1.0, 1e308, -1e308, 5e-324])
def test_no_number_of_a_file_breaks_the_page(value: float) -> None:
    report = page_report(5)
    found, training = report.trade_offs[0], report.training
    assert training is not None
    sites = tuple(replace(site, alternatives=tuple(replace(item, loss=value) for item in site.alternatives)) for site in report.sites)
    mixed = replace(sites[0], alternatives=(*sites[0].alternatives, replace(sites[0].alternatives[0], bits=16, loss=1.0)))
    for changed in (
        replace(report, trade_offs=(replace(found, used=value, loss=value, limit=value),)),
        replace(report, trade_offs=(replace(found, trades=tuple(replace(trade, used=value, loss=value) for trade in found.trades)),)),
        replace(report, training=replace(training, curve=((1, value), (2, 1.0)), steps=0)),
        replace(report, sites=(mixed, *sites[1:])),
        replace(report, latency_us=value, int8_latency_us=value or 1.0, fastest_latency_us=value),
        replace(report, layers=tuple(replace(row, predicted_us=value, sensitivity=value) for row in report.layers)),
    ):
        assert "Totals and proof" in render(changed)


def test_the_heat_map_has_one_row_a_group_and_shades_by_decades() -> None:
    found = heat_map(page_report(4).sites)
    assert found.widths == tuple(range(2, 9))
    assert len(found.rows) == 8
    assert [cell.chosen for cell in found.rows[0].cells] == [bits == 8 for bits in found.widths]
    levels = [cell.level for cell in found.rows[0].cells]
    assert levels == sorted(levels, reverse=True)
    assert max(cell.level for row in found.rows for cell in row.cells) == 9


def test_shares_are_of_the_whole_time() -> None:
    assert sum(cell.share for cell in layer_cells(page_report(10).layers)) == pytest.approx(1.0)


def test_the_values_of_the_script_are_json(tmp_path: Path) -> None:
    page = render(page_report(5))
    text = page.split('id="known">')[1].split("</script>")[0]
    assert "<" not in text
    assert [layer["weight"] for layer in json.loads(text)["layers"]] == [f"weight {index}" for index in range(5)]


def test_a_page_that_fails_or_loads_something_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "ill.html"
    path.write_text('<img src="http://127.0.0.1:9/x.png"><script>console.error("one"); missing()</script>', encoding="utf-8")
    with opened(path) as page:
        found = " ".join(page.complaints)
    assert all(part in found for part in ("one", "missing is not defined", "127.0.0.1:9"))
