"""A page is one file, with every panel, written whole or not at all."""

import html.parser
from pathlib import Path

import pytest

from pyrovae import plots


class Balanced(html.parser.HTMLParser):
    """Every tag that opens closes; collects the addresses that the page refers to."""

    def __init__(self):
        super().__init__()
        self.open, self.sources, self.tags = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_sheet_is_one_file(page):
    text = page.html()
    parser = Balanced()
    parser.feed(text)
    assert parser.open == []
    assert "script" not in parser.tags
    assert len(parser.sources) == parser.tags.count("img") == len(page.panels)
    assert all(source.startswith("data:image/png;base64,iVBOR") for source in parser.sources)
    assert "url(" not in text
    assert "Ranks &amp; &lt;more&gt;" in text
    assert parser.tags.count("table") == 1 + sum(panel.table is not None for panel in page.panels)


def test_the_picture_has_every_panel(page, tmp_path):
    figure = page.figure()
    titled = [ax for ax in figure.axes if ax.get_title()]
    assert len(titled) == len(page.panels)
    page.save(tmp_path / "page.png")
    assert (tmp_path / "page.png").read_bytes()[:4] == b"\x89PNG"
    assert [file.name for file in tmp_path.iterdir()] == ["page.png"]


def test_a_failed_write_leaves_the_old_file(page, tmp_path, monkeypatch):
    (tmp_path / "page.html").write_text("old")

    def fails(*arguments, **choices):
        raise OSError("no space left")

    monkeypatch.setattr(Path, "write_text", fails)
    with pytest.raises(OSError, match="no space left"):
        page.save(tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_other_file_endings_are_refused(linear):
    vae, x = linear
    with pytest.raises(ValueError, match="expected .png or .html"):
        plots.report(vae, x, num_samples=20).save("page.pdf")
