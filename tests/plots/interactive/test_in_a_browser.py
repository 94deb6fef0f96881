"""The page in a real browser: what is shown is what the pair gives, and nothing leaves the page."""

import numpy as np
import pytest
import torch

from tests.plots.interactive.conftest import BAD, WORSE

KINDS = ["images", "table", "sequences"]


def pixels(page, address):
    """The shades of a picture by its address, [H, W], as the browser reads it."""
    page.run(
        "window.read = null; const image = new Image(); image.onload = () => {"
        "const canvas = document.createElement('canvas'); canvas.width = image.width; canvas.height = image.height;"
        "const at = canvas.getContext('2d'); at.drawImage(image, 0, 0);"
        "window.read = [image.height, image.width, ...at.getImageData(0, 0, image.width, image.height).data]};"
        "image.src = arguments[0];",
        address,
    )
    from selenium.webdriver.support.ui import WebDriverWait

    found = WebDriverWait(page.driver, 10).until(lambda _: page.run("return window.read"))
    return np.array(found[2:], dtype=float).reshape(found[0], found[1], 4)[..., 0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_opens_without_an_error_and_asks_for_nothing(opened, made, kind):
    page = opened(kind)
    assert page.errors == []
    assert page.asked_for == [made[kind].path.as_uri()]
    assert page.run("return performance.getEntriesByType('resource').map((one) => one.name)") == []
    assert page.run("return document.querySelectorAll('#rows canvas, #rows .bk-Figure').length") > 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", [0, 17])
def test_the_pointer_shows_the_right_row(opened, made, kind, place):
    page, report = opened(kind), made[kind].report
    # Alone, so that no other row's point lies above it.
    tip = page.point(alone(page, place))
    row = int(tip["text"].split("row ")[1].split("\n")[0].split()[0])
    place = page.run(
        "return Array.from(model('map').renderers[0].data_source.data.row).indexOf(arguments[0])", row
    )
    quality = report.subject.diagnosis.quality
    log_px, k = float(quality.log_marginal[row]), float(quality.khat[row])
    assert f"{log_px:.2f}"[:-1] in tip["text"]
    assert "±" in tip["text"]
    assert np.isinf(k) or f"{k:.2f}"[:-1] in tip["text"]
    if kind == "images":
        shades = pixels(page, tip["images"][0])
        np.testing.assert_array_equal(shades, 255 * made[kind].data[0][row].reshape(6, 5))
        means = made[kind].vae.reconstruct(*made[kind].data)[row].reshape(6, 5)
        np.testing.assert_allclose(pixels(page, tip["images"][1]), 255 * means, atol=0.51)
        assert str(report.subject.labels[row]) in tip["text"]


def alone(page, place):
    """The place nearest to one asked for whose point lies far from all others, on the map's scale."""
    points = np.array(
        page.run(
            "const d = model('map').renderers[0].data_source.data; return [Array.from(d.x), Array.from(d.y)]"
        )
    ).T
    points = (points - points.mean(0)) / points.std(0)
    apart = np.linalg.norm(points[:, None] - points, axis=-1) + 99 * np.eye(len(points))
    order = np.argsort(-apart.min(1))
    return int(order[place % 5])


def test_sliders_of_images_decode_what_the_vae_decodes(opened, made):
    page, vae, (x,) = opened("images"), made["images"].vae, made["images"].data
    walks = page.run("return JSON.parse(document.getElementById('walks').textContent)")
    assert walks["dimensions"] == ["z[0]", "z[1]", "z[2]"]
    for base, k, step in [(0, 0, 0), (1, 2, 14), (2, 1, 5)]:
        page.run("model('base').value = String(arguments[0])", base)
        page.run("model(`slider${arguments[0]}`).value = arguments[1]", k, step)
        row = int(walks["bases"][base]["said"].split()[1].rstrip(","))
        z = vae.encode(x)[row : row + 1].clone()
        z[0, k] = walks["bases"][base]["points"][k][step]
        address = page.run("return document.querySelectorAll('#decoded img')[1].src")
        np.testing.assert_allclose(pixels(page, address), 255 * vae.decode(z)[0].reshape(6, 5), atol=0.51)
        own = page.run("return document.querySelectorAll('#decoded img')[0].src")
        np.testing.assert_array_equal(pixels(page, own), 255 * x[row].reshape(6, 5))
        assert page.run("return model(`slider${arguments[0]}`).title", k).startswith(f"z[{k}] = ")
        # Another slider starts from the row again.
        other = (k + 1) % 3
        start = walks["bases"][base]["start"]
        page.run("model(`slider${arguments[0]}`).value = arguments[1]", other, (start[other] + 1) % 15)
        assert page.run("return model(`slider${arguments[0]}`).value", k) == start[k]


def test_sliders_of_a_table_decode_what_the_vae_decodes(opened, made):
    page, vae, (frame,) = opened("table"), made["table"].vae, made["table"].data
    walks = page.run("return JSON.parse(document.getElementById('walks').textContent)")
    assert walks["entries"] == ["visits", "@height $x", WORSE, "kind"]  # in the order of the sites
    page.run("model('slider1').value = 3")
    shown = page.run("return Array.from(model('decoded').source.data.decoded)")
    row = int(walks["bases"][0]["said"].split()[1].rstrip(","))
    z = vae.encode(frame)[row : row + 1].clone()
    z[0, 1] = walks["bases"][0]["points"][1][3]
    means = vae.decode(z)
    expected = [float(means["x_0"][0, 0]), *means["x_1"][0].tolist()]
    np.testing.assert_allclose(shown[:3], expected, rtol=1e-4, atol=1e-6)
    assert (
        shown[3] == (BAD, "b", "c")[int(means["x_2"][0, 0].argmax())]
    )  # the most probable, as the frame calls it


def test_sliders_of_sequences_decode_what_the_vae_decodes(opened, made):
    page, vae, lengths = opened("sequences"), made["sequences"].vae, made["sequences"].data[1]
    walks = page.run("return JSON.parse(document.getElementById('walks').textContent)")
    page.run("model('slider2').value = 1")
    row = int(walks["bases"][0]["said"].split()[1].rstrip(","))
    assert walks["bases"][0]["said"] == f"row {row}, lengths {lengths[row]}"
    # A chain's posterior means are averages over draws: those of the page are where its sliders stand.
    base = walks["bases"][0]
    places = [int(name[2:-1]) for name in walks["dimensions"]]
    assert places == list(range(12))
    z = torch.tensor([points[start] for points, start in zip(base["points"], base["start"], strict=True)])
    z[2] = base["points"][2][1]
    z = z.reshape(1, 6, 2)
    means = vae.decode(z, lengths[row : row + 1])[0]
    address = page.run("return document.querySelectorAll('#decoded img')[1].src")
    upright = 255 * (
        1 - torch.flip(means.T, [0])
    )  # time to the right, high notes above; ink where one sounds
    upright[:, int(lengths[row]) :] = int("d0", 16)
    np.testing.assert_allclose(pixels(page, address), upright, atol=1.01)


def test_values_and_names_are_shown_and_not_run(opened, made):
    from selenium.common.exceptions import NoAlertPresentException

    page = opened("images")
    assert page.text("h1") == BAD
    assert page.driver.title == BAD
    row = int(np.flatnonzero(made["images"].report.subject.labels == BAD)[0])
    page.run("model('row').value = arguments[0]", row)
    assert BAD in page.text("#card")
    assert any(BAD in said for _, said in page.run("return model('base').options"))
    place = page.run(
        "return Array.from(model('map').renderers[0].data_source.data.label).indexOf(arguments[0])", BAD
    )
    assert place >= 0
    table = opened("table")
    assert WORSE in table.text("#card")
    assert "Dr. No" in table.text("#card")
    kind = table.run("return model('map').renderers[0].data_source.data.v3[0]")
    assert kind in (BAD, "b", "c")
    assert kind in table.text("#card")
    assert table.run("return document.querySelectorAll('img[src=x]').length") == 0
    heads = table.run(HEADS)
    assert any(WORSE in head for head in heads)
    with pytest.raises(NoAlertPresentException):
        _ = table.driver.switch_to.alert.text


HEADS = """
const found = [];
const walk = (node) => {
  if (node.classList && node.classList.contains("slick-column-name")) found.push(node.textContent);
  for (const child of node.children ?? []) walk(child);
  if (node.shadowRoot) walk(node.shadowRoot);
};
walk(document.body);
return found;
"""


def test_what_is_brushed_is_listed(opened):
    page = opened("images")
    assert page.text("#listed") == "All 40 rows on this page"
    page.run("model('map').renderers[0].data_source.selected.indices = [3, 1, 8]")
    assert page.text("#listed") == "3 rows chosen"
    assert page.run("return Array.from(model('rows').source.data.row)") == [1, 3, 8]
    page.run("model('rows').source.selected.indices = [1]")  # a click on the second line
    assert page.text("#card h3") == "Row 3"
    page.run("model('map').renderers[0].data_source.selected.indices = []")
    assert page.text("#listed") == "All 40 rows on this page"


def test_a_box_on_the_map_chooses_rows(opened):
    from selenium.webdriver.common.action_chains import ActionChains

    page = opened("images")
    page.run(
        "const bar = model('map').toolbar; bar.active_drag = bar.tools.find((t) => t.type === 'BoxSelectTool')"
    )
    x, y = page.where(alone(page, 0))
    actions = ActionChains(page.driver)
    pointer = actions.w3c_actions.pointer_action
    pointer.move_to_location(round(x) - 6, round(y) - 6)
    pointer.pointer_down()
    pointer.move_to_location(round(x), round(y))
    pointer.move_to_location(round(x) + 6, round(y) + 6)
    pointer.pointer_up()
    actions.perform()
    assert "rows chosen" in page.text("#listed")
    assert alone(page, 0) in page.run(
        "return Array.from(model('map').renderers[0].data_source.selected.indices)"
    )


def test_the_strangest_rows_are_found(opened, made):
    page = opened("images")
    page.run("model('measure').value = '0'")
    page.press("Find")
    log_px = made["images"].report.subject.diagnosis.quality.log_marginal
    assert page.run("return Array.from(model('rows').source.data.row)") == log_px.argsort()[:10].tolist()
    assert "lowest log p(x)" in page.text("#listed")


def test_colours_follow_the_choice(opened):
    page = opened("images")
    plot = "const glyph = model('map').renderers[0].glyph; return glyph.fill_color.field"
    assert page.run(plot) == "of_label"
    page.run("model('colour').value = 'khat'")
    assert page.run(plot) == "khat"
    assert page.run("return model('map').right.map((one) => one.visible)") == [False, True]


def test_there_are_two_looks(opened):
    page = opened("images")
    before = page.run("return getComputedStyle(document.body).backgroundColor")
    fill = page.run("return model('map').background_fill_color")
    page.driver.find_element("id", "look").click()
    assert page.run("return getComputedStyle(document.body).backgroundColor") != before
    assert page.run("return model('map').background_fill_color") != fill
    assert page.run("return document.documentElement.dataset.look") in ("dark", "light")


def test_the_keyboard_suffices(opened):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    page = opened("images")
    page.run("document.getElementById('look').focus()")
    reached = {"look BUTTON"}
    for _ in range(60):
        ActionChains(page.driver).send_keys(Keys.TAB).perform()
        name = page.run(
            "let at = document.activeElement; while (at.shadowRoot?.activeElement) at = at.shadowRoot.activeElement;"
            "return `${at.id} ${at.className} ${at.tagName}`"
        )
        reached.add(name)
        if "noUi-handle" in name:
            before = page.run("return model('slider0').value")
            ActionChains(page.driver).send_keys(Keys.ARROW_RIGHT).perform()
            assert page.run("return model('slider0').value") == before + 1
            break
    assert any("noUi-handle" in name for name in reached)
    assert any("slick-header-column" in name for name in reached)
    assert any(name.startswith("look ") for name in reached)
    assert any(name.startswith("card ") for name in reached)


def test_training_curves_have_toggles(opened):
    page = opened("images")
    shown = "return model('training').renderers.map((one) => one.visible)"
    before = page.run(shown)
    page.run("const toggles = model('toggles'); toggles.active = [0]")
    assert page.run(shown) != before
    assert sum(page.run(shown)) == 1


FIRST_CELLS = """
const found = [];
const walk = (node, inside) => {
  if (inside && node.classList?.contains("slick-row") && node.style.top === "0px")
    found.push([...node.querySelectorAll(".slick-cell")].map((one) => one.textContent));
  for (const child of node.children ?? []) walk(child, inside);
  if (node.shadowRoot) walk(node.shadowRoot, inside);
};
walk(document.getElementById("rows"), true);
return found[0];
"""


def test_a_table_sorts_by_its_heads(opened, made):
    page = opened("images")
    log_px = made["images"].report.subject.diagnosis.quality.log_marginal
    assert page.run(FIRST_CELLS)[0] == "0"
    page.run(HEADS.replace("found.push(node.textContent)", "node.textContent === 'log p(x)' && node.click()"))
    assert page.run(FIRST_CELLS)[0] == str(int(log_px.argmin()))


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_went_wrong_and_nothing_was_asked_for_on_the_way(opened, kind):
    """After all that the tests above do on the pages."""
    assert opened(kind).logged() == ([], [])


def test_a_notebooks_frame_shows_the_page(driver, made, tmp_path):
    from selenium.webdriver.support.ui import WebDriverWait

    driver.switch_to.new_window("tab")
    notebook = tmp_path / "notebook.html"
    notebook.write_text(f"<!DOCTYPE html><meta charset='utf-8'>{made['images'].report.page()._repr_html_()}")
    driver.get(notebook.as_uri())
    driver.switch_to.frame(0)
    WebDriverWait(driver, 30).until(
        lambda d: d.execute_script("return document.documentElement.dataset.ready") == "yes"
    )
    assert driver.find_element("id", "listed").text == "All 40 rows on this page"
    driver.switch_to.default_content()
