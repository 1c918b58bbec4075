"""The site: `make docs` builds it without a warning, and what it built works from a disk, without a network."""

import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]

ROOT = Path(__file__).parent.parent.parent
SOURCES = ("docs", "examples", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")
PHONE, DESK = {"width": 390, "height": 844}, {"width": 1280, "height": 800}


def copied(folder):
    """The sources without what an earlier build left, so that nothing is taken from there."""
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(
                ROOT / name, folder / name, ignore=shutil.ignore_patterns("generated", "gallery_*", "*.pyc")
            )
        else:
            shutil.copy(ROOT / name, folder / name)
    for made in ("gallery", "course"):
        shutil.rmtree(folder / "docs" / made, ignore_errors=True)
    return folder


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Built once, by the line of the Makefile; warnings are errors."""
    source, out = copied(tmp_path_factory.mktemp("source")), tmp_path_factory.mktemp("site")
    line = re.search(r"\$\(BIN\)/python (-m sphinx .*) docs out/site", (ROOT / "Makefile").read_text())[1]
    environment = os.environ | {"TILEWRIGHT_CACHE": str(source / "cache")}
    done = subprocess.run(
        [sys.executable, *line.split(), "docs", str(out)], cwd=source, env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    return out


class Page(HTMLParser):
    """What a page links to, what it loads, and where one can link into it."""

    def __init__(self, path):
        super().__init__()
        self.links, self.loads, self.places = [], [], set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.places |= {found[key] for key in ("id", "name") if found.get(key)}
        if tag == "a" and found.get("href"):
            self.links.append(found["href"])
        if tag in ("img", "script", "iframe", "source", "object") and (found.get("src") or found.get("data")):
            self.loads.append(found.get("src") or found["data"])
        if tag == "link" and found.get("rel") not in ("canonical", "search", "index", "next", "prev"):
            self.loads.append(found["href"])


@pytest.fixture(scope="module")
def pages(site):
    return {path: Page(path) for path in sorted(site.rglob("*.html")) if "_static" not in path.parts}


def test_every_link_of_the_site_leads_to_a_page_and_a_place_on_it(site, pages):
    lost = []
    for path, page in pages.items():
        for link in page.links:
            url = urlsplit(link)
            if url.scheme:
                continue
            target = (path.parent / unquote(url.path)).resolve() if url.path else path
            there = target.is_file() and (
                not url.fragment or target not in pages or unquote(url.fragment) in pages[target].places | {""}
            )
            if not there:
                lost.append(f"{path.relative_to(site)}: {link}")
    assert lost == []


def test_every_picture_script_and_style_is_a_file_of_the_site(site, pages):
    lost = []
    for path, page in pages.items():
        for load in page.loads:
            url = urlsplit(load)
            if url.scheme != "data" and (url.scheme or not (path.parent / unquote(url.path)).is_file()):
                lost.append(f"{path.relative_to(site)}: {load}")
    assert lost == []


def test_the_gallery_has_every_example_with_what_it_drew(site):
    examples = sorted(path.stem for path in (ROOT / "examples" / "gallery").glob("*.py"))
    assert len(examples) >= 8
    for example in examples:
        assert "_images/sphx_glr_" + example in (site / "gallery" / f"{example}.html").read_text(encoding="utf-8")


def test_the_course_has_six_lessons_that_were_executed_and_can_be_had_as_notebooks(site):
    """A failed assertion ends the build, so all answers of the exercises are right."""
    lessons = sorted((ROOT / "examples" / "course").glob("*.py"))
    assert len(lessons) == 6
    for lesson in lessons:
        page = (site / "course" / f"{lesson.stem}.html").read_text(encoding="utf-8")
        assert f"_images/sphx_glr_{lesson.stem}" in page and "sphx-glr-script-out" in page
        _, answers = lesson.read_text(encoding="utf-8").split("# Answers\n")
        assert all(f"# {number}. " in answers for number in (1, 2, 3)) and answers.count("assert ") >= 3
        notebook = json.loads(next((site / "_downloads").rglob(f"{lesson.stem}.ipynb")).read_text(encoding="utf-8"))
        code = "".join("".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code")
        assert code.count("assert ") == lesson.read_text(encoding="utf-8").count("assert ")
    front = (site / "course" / "index.html").read_text(encoding="utf-8")
    assert all(words in front for words in ("Eijkhout", "Parallel scalability", "Speed Up with AMP"))


@pytest.fixture
def open_page(site, browser):
    """Open a page from disk. At the end nothing may have been asked of a network, and no error written."""
    contexts, errors, elsewhere = [], [], []

    def show(name, size=DESK, scheme="light"):
        context = browser.new_context(viewport=size, color_scheme=scheme, offline=True)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on(
            "request",
            lambda request: (
                elsewhere.append(request.url)
                if "://" in request.url and not request.url.startswith("file://")
                else None
            ),
        )
        page.goto(f"file://{site / name}")
        return page

    yield show
    for context in contexts:
        context.close()
    assert (errors, elsewhere) == ([], [])


VISITED = [
    "index.html",
    "tour.html",
    "performance.html",
    "gallery/index.html",
    "gallery/own_algorithm.html",
    "course/index.html",
    "course/lesson5_precision.html",
    "reference/factorisations.html",
    "reference/generated/tilewright.Machine.html",
]


@pytest.mark.parametrize(("size", "scheme"), [(DESK, "light"), (PHONE, "dark")], ids=["desk", "phone"])
def test_pages_show_their_pictures_and_are_no_wider_than_the_screen(site, open_page, size, scheme):
    page = open_page(VISITED[0], size, scheme)
    for name in VISITED:
        page.goto(f"file://{site / name}")
        assert page.locator("h1").first.is_visible()
        broken = page.eval_on_selector_all(
            "article img", "all => all.filter(i => !i.complete || !i.naturalWidth).map(i => i.src)"
        )
        assert broken == []
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"], name


def test_search_finds_a_call_and_a_word_of_a_page(open_page):
    for words, wanted in (("tiled_cholesky", "tilewright.tiled_cholesky.html"), ("jobqueue", "howto/jobqueue.html")):
        page = open_page(f"search.html?q={words}")
        page.wait_for_selector("#search-results ul.search li a")
        found = page.eval_on_selector_all("#search-results ul.search li a", "all => all.map(a => a.href)")
        assert any(wanted in url for url in found), (words, found)
