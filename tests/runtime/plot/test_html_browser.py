"""The pages in headless Chromium, opened from disk. Where no Chromium is installed there is nothing to collect."""

import re
import shutil
import subprocess

import tilewright as tw

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def dump(path, tmp_path, fragment=""):
    """The document after its script ran, and what was written to the console."""
    done = subprocess.run(
        [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom",
            "--enable-logging=stderr", f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1200,900",
            "--host-resolver-rules=MAP * ~NOTFOUND", f"file://{path}{fragment}",
        ],
        capture_output=True, text=True, timeout=100, check=True,
    )  # fmt: skip
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return done.stdout, console


def story(page):
    return re.sub("<[^>]*>", "", re.search(r'<div class="details".*?</div>', page, re.S)[0])


if CHROMIUM:

    def test_a_task_named_in_the_address_is_selected_and_its_wait_explained(tmp_path):
        run = tw.simulate(
            tw.cholesky_graph(5), tw.Machine(ranks=2, workers=2, alpha=1e-5, beta=1e-9, gamma=1e-9),
            owner=lambda h: h.index[0] % 2,
        )  # fmt: skip
        run.report(tmp_path / "run.html")
        page, console = dump(tmp_path / "run.html", tmp_path, "#trsm(1,0)")
        assert console == []
        assert "data-ready" in page
        text = story(page)
        assert "trsm(1,0) R(A[0,0]) RW(A[1,0])" in text
        assert "on the critical path" in text
        assert "It waited for a message: A[0,0] from rank 0" in text
        assert "waits for: potrf(0)" in text

    def test_twenty_thousand_tasks_are_drawn_within_five_seconds(tmp_path):
        graph = tw.cholesky_graph(48)
        tw.simulate(graph, tw.Machine(workers=16)).report(tmp_path / "big.html")
        page, console = dump(tmp_path / "big.html", tmp_path, "#potrf(47)")
        assert console == []
        assert "waits for: syrk(47,46)" in story(page)
        assert int(re.search(r'data-ready="(\d+)"', page)[1]) < 5000
