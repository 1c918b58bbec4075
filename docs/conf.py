"""How Sphinx builds the site, by ``make docs``: docs/*.md, the docstrings, and examples/gallery and
examples/course, which are executed."""

import re
import shutil
import warnings
from graphlib import TopologicalSorter
from importlib.metadata import version as installed
from pathlib import Path

from docutils import nodes
from jinja2 import FileSystemLoader
from jinja2.sandbox import SandboxedEnvironment
from numpydoc import docscrape_sphinx
from sphinx.transforms import SphinxTransform
from sphinx_gallery.scrapers import figure_rst

import tilewright as tw

project = "tilewright"
author = project_copyright = "the tilewright developers"
version = release = installed("tilewright")

extensions = ["myst_parser", "numpydoc", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx_gallery.gen_gallery"]
exclude_patterns = [
    "**/sg_execution_times.rst",
    "sg_execution_times.rst",
    "gallery/*.py",
    "gallery/*.ipynb",
    "course/*.py",
    "course/*.ipynb",
]
templates_path = ["_templates"]
highlight_language = "text"
default_role = "py:obj"  # `Machine` in a docstring is a link where there is such a name, and code where there is none

# ---------------------------------------------------------------- pages

myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]
suppress_warnings = ["config.cache"]  # functions among the settings: nobody builds on what an earlier build kept

# ---------------------------------------------------------------- reference

autosummary_generate = True
autodoc_typehints = "none"  # numpydoc's sections say what a parameter is
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
numpydoc_show_class_members = False  # the template lists them
numpydoc_xref_param_type = False
# It makes an environment, and compiles its template, for each docstring: a tenth of the time of the whole site.
once = SandboxedEnvironment(loader=FileSystemLoader(Path(docscrape_sphinx.__file__).parent / "templates"))
docscrape_sphinx.SandboxedEnvironment = lambda loader: once

# ---------------------------------------------------------------- gallery


def pictures(block, block_vars, gallery_conf):
    """The files that a block of an example wrote, as its pictures: examples draw as users do."""
    found = sorted(
        (path for suffix in ("png", "svg") for path in Path(block_vars["src_file"]).parent.glob(f"*.{suffix}")),
        key=lambda path: path.stat().st_mtime_ns,
    )
    kept = []
    for path, target in zip(found, block_vars["image_path_iterator"], strict=False):
        kept.append(str(Path(target).with_suffix(path.suffix)))
        shutil.move(path, kept[-1])
    return figure_rst(kept, gallery_conf["src_dir"])


sphinx_gallery_conf = {
    "examples_dirs": ["../examples/gallery", "../examples/course"],
    "gallery_dirs": ["gallery", "course"],
    "filename_pattern": r"\.py$",
    "image_scrapers": (pictures,),
    "reset_modules": (),
    "capture_repr": ("__str__",),
    "abort_on_example_error": True,
    "download_all_examples": False,
    "show_memory": False,
    "show_signature": False,
    "write_computation_times": False,
    "min_reported_time": 1e9,
    "plot_gallery": True,
    "within_subsection_order": "FileNameSortKey",
    "copyfile_regex": r"$^",
    "remove_config_comments": True,
}
warnings.filterwarnings("ignore", category=DeprecationWarning, module="sphinx_gallery")

# ---------------------------------------------------------------- the look

html_theme = "pydata_sphinx_theme"
html_title = f"tilewright {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_show_search_summary = False  # it fetches the pages that it found, which a browser refuses on a disk
html_sidebars = {name: [] for name in ("install", "tour", "explanation", "performance", "comparison", "glossary")}
html_context = {"default_mode": "auto"}
html_theme_options = {
    "logo": {"text": "tilewright"},
    "show_toc_level": 2,
    "header_links_before_dropdown": 6,
    "navigation_with_keys": False,
    "footer_start": ["copyright"],
    "footer_end": [],
}


# ---------------------------------------------------------------- what the extensions lack


def page_of(found):
    """A link to a page that a docstring names as its file."""
    there = (Path(__file__).parent / f"{found[1]}.md").exists()
    return f":doc:`/{found[1]}`" if there else found[0]


def bars(app, what, name, obj, options, lines):
    """|x| in a docstring is a modulus, where reStructuredText sees the name of a substitution; pages become links."""
    example = False
    for number, line in enumerate(lines):
        example = bool(line.strip()) and (example or line.lstrip().startswith(">>>"))
        if not example:
            line = re.sub(r"`*docs/(\w+)\.md`*", page_of, line)
            parts = re.split("(``.*?``)", line)
            lines[number] = "".join(part if part.startswith("``") else part.replace("|", r"\|") for part in parts)


class Flowcharts(SphinxTransform):
    """```` ```mermaid ```` charts of arrows alone, that of the rooms: drawn here, as a browser needs a script."""

    default_priority = 210

    def apply(self, **kwargs):
        for block in list(self.document.findall(nodes.literal_block)):
            if block.get("language") == "mermaid":
                above = {}
                for start, end in re.findall(r"(\S+) --> (\S+)", block.astext()):
                    above.setdefault(start, []).append(end)
                chart = tw.TaskGraph("rooms")
                for room in TopologicalSorter(above).static_order():
                    uses = [tw.R(chart.handle(name)) for name in above.get(room, ())]
                    chart.insert(tw.Op(room), *uses, tw.W(chart.handle(room)), label=())
                drawing = chart.to_svg(layout="layered", by=lambda task: "room").replace("()", "")
                block.replace_self(nodes.raw("", drawing, format="html"))


def setup(app):
    app.connect("autodoc-process-docstring", bars)
    app.add_transform(Flowcharts)
    return {"parallel_read_safe": True}
