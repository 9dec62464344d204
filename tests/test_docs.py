"""README and the pages in docs/: links resolve, README is one page, and its command blocks hold valid commands."""

import importlib
import re
import subprocess

import pytest

from conftest import ROOT
from study import page, publish

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md"))]
LINK = re.compile(r"\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"")


def anchors(path):
    """The anchors that GitHub makes of the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(path):
    for target in (first or second for first, second in LINK.findall(path.read_text())):
        if re.match(r"\w+:", target):
            if not re.match(r"https://[\w.-]+\.\w+(/|$)", target):
                yield target
            continue
        file, _, anchor = target.partition("#")
        other = (path.parent / file).resolve() if file else path
        if not other.exists() or (anchor and anchor not in anchors(other)):
            yield target


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_resolve(path):
    assert not list(broken_links(path))


def test_broken_links_are_noticed(tmp_path):
    text = '# A page\'s title\n[a](#a-pages-title) [b](#missing) [c](missing.md) [d](http://x.org) <img src="no.png">'
    (tmp_path / "page.md").write_text(text)
    (tmp_path / "other.md").write_text("## There\n[a](page.md#a-pages-title) [b](page.md#there) [c](https://x.org/a)")
    assert list(broken_links(tmp_path / "page.md")) == ["#missing", "missing.md", "http://x.org", "no.png"]
    assert list(broken_links(tmp_path / "other.md")) == ["page.md#there"]


def test_readme_and_the_page_lead_to_every_document():
    linked = {target for target, _ in LINK.findall((ROOT / "README.md").read_text())}
    documents = {str(path.relative_to(ROOT)) for path in PAGES[1:]}
    assert documents - linked == set()
    assert {f"docs/{name}" for name in [*page.DOCUMENTS.values(), "beyond.md"]} <= documents


def test_readme_is_one_page_with_short_tables():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 110
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len(table.splitlines()) - 2 <= 8


def commands():
    """The lines of README's command blocks, without their comments."""
    for line in re.findall(r"^    (.+)$", (ROOT / "README.md").read_text(), re.MULTILINE):
        yield re.split(r"\s{2,}#", line)[0].split()


def test_every_line_of_a_command_block_in_readme_is_a_valid_command():
    found = list(commands())
    assert {"make", "python"} == {words[0] for words in found}
    for program, *words in found:
        if program == "make":
            done = subprocess.run(["make", "-n", *words, "PYTHON=python"], cwd=ROOT, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            assert "python" in done.stdout
        else:
            name = words[0].removeprefix("code/").removesuffix(".py").replace("/", ".")
            importlib.import_module(name).parse_args(words[1:])


def test_results_of_others_are_the_same_in_readme_and_have_a_source():
    sources = (ROOT / "docs" / "results.md").read_text().split("## Sources")[1]
    values = {metric: re.findall(r"-?\d+\.\d+", cell) for metric, cell in publish.REFERENCES.items()}
    for found in values.values():
        for value in found:
            assert re.search(rf"(?<![\d.-]){value}(?!\.)", sources), value
    assert len(publish.HEADLINES) <= 8
    for run, metric, others in publish.HEADLINES:
        assert set(re.findall(r"-?\d+\.\d+", others)) <= set(values.get((run, metric), []))
