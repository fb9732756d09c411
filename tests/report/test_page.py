"""The page: one file, whole, escaped; and the command that writes it."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

from experiments.main import main
from fedlab.report.page import write_page
from fedlab.report.result import Result


class Outline(HTMLParser):
    """Checks that tags nest, and keeps the headings and what a browser would fetch."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.headings: list[str] = []
        self.fetched: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.fetched += [value for key, value in attrs if key in {"src", "href"}]
        if tag not in {"meta", "img"}:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in {"h1", "h2"}:
            self.headings.append(data)


def test_the_page_holds_every_section_and_fetches_nothing(run):
    Result.load(run).plot("accuracy", run / "figures" / "accuracy.png")
    text = write_page(run).read_text()
    page = Outline(text)
    assert page.headings == ["afl_digits", "Methods", "Figures", "Configuration", "Manifest"]
    assert len(page.fetched) == 1 and page.fetched[0].startswith("data:image/png;base64,iVBOR")
    assert not re.search(r"url\(|@import|<script|<link", text)
    assert "prefers-color-scheme: dark" in text and "width=device-width" in text
    assert "98.00 %" in text and "0123456789ab" in text and "experiment: afl_digits" in text


def test_every_text_is_escaped(run, results):
    bad = '<img src=x onerror=alert(1)>&"'
    results |= {"experiment": bad, "strategy": bad, "seed": bad, "head_sha256": bad}
    results["methods"][bad] = results["methods"].pop("fedavg")
    (run / "results.json").write_text(json.dumps(results))
    (run / "config.yaml").write_text(f"</pre>{bad}")
    (run / "manifest.json").write_text(json.dumps({bad: bad}))
    (run / "figures").mkdir()
    (run / "figures" / '<b>".png').write_bytes(b"png")
    text = write_page(run).read_text()
    Outline(text)
    assert "<img src=x" not in text and "</pre><img" not in text and "<b>" not in text
    assert "&lt;img src=x onerror=alert(1)&gt;&amp;" in text


def test_a_bare_run_has_a_page(tmp_path):
    (tmp_path / "results.json").write_text("{}")
    (tmp_path / "manifest.json").write_text('{"torn')
    page = Outline(write_page(tmp_path).read_text())
    assert page.headings == [tmp_path.name, "Manifest"]


def test_privacy_and_study_are_shown(run, results):
    results["privacy"] = {"epsilon": 1.5, "delta": 1e-5, "unit": "client"}
    results["study"] = {"kind": "dummy", "rows": [{"clients": 2, "error": 5e-14}]}
    (run / "results.json").write_text(json.dumps(results))
    text = write_page(run).read_text()
    assert "ε 1.5, δ 1e-05, per client" in text and "5.0e-14" in text


def test_the_command_prints_the_page_and_goes_on_after_a_bad_folder(run, tmp_path, capsys):
    assert main(["report", str(run)]) == 0
    assert capsys.readouterr().out.strip() == str(run / "index.html")
    assert main(["report", str(tmp_path / "none"), str(run)]) == 2
    said = capsys.readouterr()
    assert said.out.strip() == str(run / "index.html")
    assert "not a run directory" in said.err and "Traceback" not in said.err


def test_a_sweeps_folder_stands_for_its_runs(run, capsys):
    (run.parent / "other").mkdir()
    assert main(["report", str(run.parent)]) == 0
    assert capsys.readouterr().out.split() == [str(run / "index.html")]


def test_the_command_without_a_folder_explains_itself(capsys):
    assert main(["report"]) == 2
    assert "DIR" in capsys.readouterr().err
