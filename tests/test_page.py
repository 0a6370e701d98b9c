"""The report in a real browser: what it shows, and how it answers to pointer and keys."""

import re

import numpy as np
import pytest
from chromium import COLOURS, Opened, assert_shows, next_frame
from folders import ODD, make_folder

from actprune_gpu.pruning.folder import PlanFolder
from actprune_gpu.report import measure_stability, write_report
from actprune_gpu.report.evidence import evidence_of
from actprune_gpu.report.payload import payload_of
from actprune_gpu.report.sentences import sentence

NAMES = "[...document.querySelectorAll('#table td:first-child')].map(cell => cell.textContent)"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = make_folder(tmp_path_factory.mktemp("page") / "out", model=ODD[0])
    measure_stability(folder, seeds=2, resamples=2)
    write_report(folder)
    return folder


@pytest.fixture
def opened(browser, folder):
    shown = Opened(browser, folder.path / "report.html")
    yield shown
    shown.close()


@pytest.fixture
def page(opened):
    return opened.page


def choose(page, name):
    page.locator("#table tbody tr").filter(has_text=re.compile(rf"^{re.escape(name)}")).click()
    assert page.locator("#layer h2").text_content() == name


def said(page):
    return page.locator(".sentence p").first.text_content()


def test_every_layer_has_its_plots(page, folder):
    assert page.evaluate(NAMES) == [group.name for group in folder.plan.groups]
    assert page.locator(".column").count() == len(folder.plan.groups)
    for group in folder.plan.groups:
        choose(page, group.name)
        assert_shows(page, group)


def test_the_top_tells_before_and_after(page, folder):
    figures = page.locator("#figures").inner_text()
    kept = sum(len(group.keep) for group in folder.plan.groups)
    assert f"112 → {kept}" in figures
    shares = re.findall(r"(\d\.\d\d)\n", figures)
    assert shares[:3] == [f"{kept / 112:.2f}", "0.40", "0.38"]
    assert f"{112 - kept} of 112 channels went" in page.locator("#story").inner_text()
    assert "t-SNE" in page.locator("#story").inner_text()


def test_arrow_keys_walk_over_the_channels_and_say_what_explain_says(page, folder):
    for group in folder.plan.groups:
        choose(page, group.name)
        evidence = evidence_of(folder, group)
        page.locator(".strip").focus()
        for channel in range(group.channels):
            page.keyboard.press("ArrowRight")
            assert said(page) == sentence(evidence, channel, folder.plan.config)
        assert page.locator(".strip").get_attribute("aria-valuetext") == said(page)
        page.keyboard.press("Home")
        assert said(page).startswith("Channel 0 ")
        page.keyboard.press("Escape")
        assert "Channel" not in said(page)


def test_pointing_at_a_channel_shows_it_and_a_click_holds_it(page, folder):
    group = folder.plan.groups[2]
    choose(page, group.name)
    points = np.array(group.embedding)
    distances = np.hypot(*(points[:, None] - points).transpose(2, 0, 1)) + np.diag(
        [1e9] * len(points)
    )
    channel = max(group.drop, key=lambda at: distances[at].min())  # no other one close by
    dot = page.locator(f"#layer .map circle[data-channel='{channel}']")
    dot.hover(force=True)
    expected = sentence(evidence_of(folder, group), channel, folder.plan.config)
    assert said(page) == expected
    assert page.locator(".map.pointed").count() == 1
    cluster = np.array(group.cluster_labels)
    near = page.locator("#layer .map circle.near").count()
    assert near == int((cluster == cluster[channel]).sum())
    page.mouse.move(5, 5)
    assert "Point at a channel" in said(page)
    dot.click(force=True)
    page.mouse.move(5, 5)
    assert said(page) == expected
    more = page.locator(".sentence p").nth(1).text_content()
    assert f"{group.weights[channel]:.3g}" in more
    assert "of 2 other starts" in more
    page.locator(".strip").focus()
    page.keyboard.press("ArrowRight")
    assert said(page).startswith(f"Channel {channel + 1} ")


@pytest.mark.parametrize("at", [(0.01, 0.01), (0.55, 0.3), (0.99, 0.7)])
def test_pointing_at_the_heat_map_names_the_class_pair(page, folder, at):
    group = folder.plan.groups[2]
    choose(page, group.name)
    page.locator("#layer .heat").scroll_into_view_if_needed()
    box = page.locator("#layer .heat canvas").nth(1).bounding_box()
    page.mouse.move(box["x"] + at[0] * box["width"], box["y"] + at[1] * box["height"])
    evidence = evidence_of(folder, group)
    values = evidence.matrix.rows(np.arange(group.channels))
    columns = np.argsort(-values.mean(0), kind="stable")
    pair = columns[int(at[0] * len(columns))]
    channel = payload_of(folder)["groups"][2]["order"][int(at[1] * group.channels)]
    words = page.locator("#layer .plots h3 span", has_text="channel").text_content()
    found = re.fullmatch(r"channel (\d+), (.*): ([\d.]+)", words, re.S)
    assert int(found[1]) == channel
    assert found[2] == evidence.matrix.name(pair)
    assert float(found[3]) == pytest.approx(values[channel, pair], abs=0.03)
    assert said(page).startswith(f"Channel {channel} ")
    # What is drawn there: the more separable, the further from the colour of nothing.
    pixel = (
        page.locator("#layer .heat canvas")
        .nth(1)
        .evaluate(
            "(canvas, at) => { const copy = new OffscreenCanvas(1, 1).getContext('2d');"
            "copy.drawImage(canvas, -at[0], -at[1]);"
            "return [...copy.getImageData(0, 0, 1, 1).data] }",
            [int(at[0] * len(columns)), int(at[1] * group.channels)],
        )
    )
    stops = np.array([[0xF4, 0xF1, 0xEA], [0x6D, 0xA9, 0xA3], [0x0D, 0x32, 0x38]])
    expected = [np.interp(values[channel, pair], [0, 1, 2], stops[:, part]) for part in range(3)]
    np.testing.assert_allclose(pixel[:3], expected, atol=4)


def test_pointing_at_the_curve_reads_it(page, folder):
    group = folder.plan.groups[3]
    choose(page, group.name)
    page.locator("#layer .curve-plot").scroll_into_view_if_needed()
    box = page.locator("#layer .curve-plot").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    text = page.locator("#layer .curve-plot text", has_text="clusters:").text_content()
    clusters, value = re.search(r"(\d+) clusters: ([\d.]+)", text).groups()
    assert float(value) == pytest.approx(group.curves.mss[int(clusters) - 2], abs=1e-3)


def test_sorting(page, folder):
    groups = folder.plan.groups
    orders = {
        "Layer": lambda group: groups.index(group),
        "Channels": lambda group: group.channels,
        "Kept": lambda group: len(group.keep) / group.channels,
        "Knee": lambda group: group.k_star,
        "Why": lambda group: group.reason,
    }
    for name, key in orders.items():
        if name != "Layer":  # by which they are sorted already
            page.locator("th button", has_text=name).click()
        assert page.evaluate(NAMES) == [group.name for group in sorted(groups, key=key)], name
        assert page.locator("th[aria-sort=ascending]").inner_text() == name
        page.locator("th button", has_text=name).click()
        # Equal ones stay in the order of the network.
        turned = sorted(groups, key=key, reverse=True)
        assert page.evaluate(NAMES) == [group.name for group in turned], name
        assert page.locator("th[aria-sort=descending]").inner_text() == name


def test_filtering(page, folder):
    groups = folder.plan.groups
    page.fill("#filter", "ER.2")
    assert page.evaluate(NAMES) == ["layer.2"]
    assert page.locator("#count").text_content() == "1 of 4 shown"
    page.fill("#filter", "<i>sec")  # a member
    assert page.evaluate(NAMES) == ["layer.1"]
    page.fill("#filter", "nothing like it")
    assert page.evaluate(NAMES) == []
    page.locator("#filter").press("Escape")
    assert page.evaluate(NAMES) == [group.name for group in groups]
    for kind, keeps in (
        ("less", lambda group: len(group.keep) < group.channels),
        ("whole", lambda group: len(group.keep) == group.channels),
        ("moved", lambda group: group.k != group.k_star),
    ):
        page.select_option("#show", kind)
        assert page.evaluate(NAMES) == [group.name for group in groups if keeps(group)], kind


def test_keys_move_through_the_layers(page):
    chosen = page.locator("tr[aria-selected=true] td").first
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "filter"
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Home")
    assert chosen.text_content() == "layer.0"
    page.keyboard.press("ArrowDown")
    assert chosen.text_content() == "layer.1"
    assert page.locator("#layer h2").text_content() == "layer.1"
    assert page.evaluate("document.activeElement.tagName") == "TR"
    page.keyboard.press("End")
    assert chosen.text_content() == "layer.3"
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.getAttribute('role')") == "slider"
    page.keyboard.press("ArrowRight")
    assert said(page).startswith("Channel 0 of layer.2 ")


def test_everything_can_be_reached_by_the_tab_key(page):
    reached = set()
    for _ in range(20):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
    assert {"filter", "show", "BUTTON", "TR", "svg"} <= reached


def test_the_address_names_a_layer(browser, folder):
    shown = Opened(browser, folder.path / "report.html")
    shown.page.locator(".column").nth(3).click()
    assert shown.page.url.endswith("#layer.3")
    shown.page.reload()
    assert shown.page.locator("#layer h2").text_content() == "layer.3"
    shown.close()


def test_names_are_shown_as_they_are(page, folder):
    assert page.locator("#title").text_content() == f"{ODD[0]}, pruned"
    assert page.title() == f"{ODD[0]}, pruned"
    choose(page, "layer.1")
    assert "<i>second</i>" in page.locator("#layer").text_content()
    pairs = page.locator("#layer .pairs").all_text_contents()
    assert any(name in "".join(pairs) for name in ODD)
    assert page.locator("b, i").filter(has_text="second").count() == 0
    assert page.locator("script").count() == 2


def luminance(colour):
    """Relative luminance of ``rgb(...)``, as WCAG 2 defines it."""
    values = np.array([float(value) for value in re.findall(r"[\d.]+", colour)[:3]]) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def style(page, selector, name):
    return page.locator(selector).first.evaluate(
        f"node => getComputedStyle(node).getPropertyValue('{name}')"
    )


def test_light_and_dark(page, folder):
    choose(page, folder.plan.groups[2].name)
    first = {}
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        paper = luminance(style(page, "body", "background-color"))
        assert paper > 0.9 if scheme == "light" else paper < 0.02
        for selector, background in (
            ("#title", "body"),
            ("#story", "body"),
            (".why", "body"),
            ("#layer .quiet", "#layer"),
            (".sentence p", ".sentence"),
            (".figure .before", ".figure"),
        ):
            both = [luminance(style(page, selector, "color"))]
            both.append(luminance(style(page, background, "background-color")))
            contrast = (max(both) + 0.05) / (min(both) + 0.05)
            assert contrast > 4.5, (scheme, selector, contrast)
        next_frame(page)
        colours, first[scheme] = page.locator("#layer .heat canvas").nth(1).evaluate(COLOURS)
        assert colours > 3
    assert first["light"] != first["dark"], "the heat map is painted again"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_paper_every_layer_has_its_plots(page, folder, scheme):
    page.emulate_media(color_scheme=scheme)
    assert not page.locator("#printed").is_visible()
    page.emulate_media(color_scheme=scheme, media="print")
    next_frame(page)
    assert page.locator(".print-layer").count() == len(folder.plan.groups)
    for kind in (".curve-plot", ".map", ".heat"):
        boxes = page.locator(f".print-layer {kind}")
        assert boxes.count() == len(folder.plan.groups)
        assert all(box.bounding_box()["height"] > 40 for box in boxes.all()), kind
    _, first = page.locator(".print-layer .heat canvas").nth(1).evaluate(COLOURS)
    assert page.locator("#filters").is_hidden()
    assert page.locator("#layer").is_hidden()
    assert luminance(style(page, "body", "background-color")) == 1.0
    assert luminance(style(page, "#title", "color")) < 0.1
    page.emulate_media(media="screen", color_scheme=scheme)
    assert len(page.pdf()) > 20_000
    assert first[3] == 255


@pytest.mark.parametrize("width", [360, 800, 1900])
def test_no_window_is_too_narrow(browser, folder, width):
    size = {"width": width, "height": 800}
    shown = Opened(browser, folder.path / "report.html", viewport=size)
    overflow = shown.page.evaluate("document.documentElement.scrollWidth - innerWidth")
    assert overflow <= 0
    assert_shows(shown.page, folder.plan.groups[-1])
    shown.close()


def test_other_criteria_have_a_page_without_clusters(browser, tmp_path):
    folder = make_folder(tmp_path, criterion="gamma")
    shown = Opened(browser, write_report(folder))
    page, group = shown.page, folder.plan.groups[2]
    choose(page, group.name)
    for word in ("knee", "cluster "):
        assert word not in page.locator("main").inner_text().lower()
    assert page.locator("#layer .ranks rect.fill-kept").count() == len(group.keep)
    page.locator(f"#layer .ranks rect[data-channel='{group.drop[0]}']").hover(force=True)
    evidence = evidence_of(folder, group)
    assert said(page) == sentence(evidence, group.drop[0], folder.plan.config)
    colours, _ = page.locator("#layer .heat canvas").nth(1).evaluate(COLOURS)
    assert colours > 3
    shown.close()


def test_without_moments_there_is_a_page_too(browser, tmp_path):
    make_folder(tmp_path)
    (tmp_path / "moments.safetensors").unlink()
    folder = PlanFolder.load(tmp_path)
    shown = Opened(browser, write_report(folder))
    page, group = shown.page, folder.plan.groups[2]
    choose(page, group.name)
    assert page.locator("#layer .heat").count() == 0
    assert page.locator("#layer .map circle.channel").count() == group.channels
    page.locator(".strip").focus()
    page.keyboard.press("ArrowRight")
    assert said(page) == sentence(evidence_of(folder, group), 0, folder.plan.config)
    assert "no moments" in page.locator("#notes").text_content()
    shown.close()
