"""What mkdocs does beyond its own: pages from the repository's root, notebooks, links to code.

Links in pages are relative to the file in the repository, as a code host reads them. Here a link to
a file that is no page leads to `repo_url`, or is plain text where there is none.
"""

from __future__ import annotations

import html
import json
import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parent.parent.parent
# Pages that lie outside docs/; their place in the site is that in the repository.
OUTSIDE = ("CONTRIBUTING.md", "CHANGELOG.md", "launch/README.md", "examples/README.md")
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
# A line does not end within "5 %", "1 ± 2", "3 ms" and "n = 5".
UNIT = re.compile(
    r"(?<=\d) (?=[%±]|(?:[mµ]?s|[KMGT]i?B)\b)|(?<=±) (?=\d)"
    r"|(?<=\b[nK]) (?== \d)|(?<=\b[nK] =) (?=\d)"
)
STYLED = re.compile(r'<style.*?</style>| (?:border|class|style)="[^"]*"', re.DOTALL)
REMOTE = re.compile(r"!\[([^\]]*)\]\(https?:[^)]*\)")  # a badge: its words stand for it
CODE = re.compile(r"^ *(`{3,}|~{3,}).*?^ *\1[^\n]*$|`[^`\n]+`", re.MULTILINE | re.DOTALL)


class Notebook(File):
    """A notebook that is a page: its text, its code, and the outputs that were saved in it."""

    def is_documentation_page(self) -> bool:
        return True


def on_files(files, config):
    """Adds pages from outside docs/, and makes notebooks pages."""
    for name in OUTSIDE:
        if (ROOT / name).is_file():
            files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    for path in (*ROOT.glob("docs/**/*.ipynb"), *ROOT.glob("examples/*.ipynb")):
        name = path.relative_to(ROOT).as_posix().removeprefix("docs/")
        if old := files.get_file_from_path(name):
            files.remove(old)
        files.append(Notebook.generated(config, name, content=markdown(path)))
    return files


def on_page_markdown(text, page, config, files):
    """Leads links from the place in the repository to the place in the site."""
    uri = page.file.src_uri
    here = uri if uri.startswith("examples/") or uri in OUTSIDE else f"docs/{uri}"

    kept = []

    def keep(match):
        kept.append(match[0])
        return f"\0{len(kept) - 1}\0"

    def link(match):
        image, words, target = match.groups()
        words = LINK.sub(link, words)  # a picture may be a link
        if re.match(r"\w+:|#", target):
            return match[0]
        path, _, anchor = target.partition("#")
        there = posixpath.normpath(posixpath.join(posixpath.dirname(here), path))
        name = "index.md" if there == "README.md" else there.removeprefix("docs/")
        if files.get_file_from_path(name):
            new = posixpath.relpath(name, posixpath.dirname(uri) or ".")
            return f"{image}[{words}]({new}{'#' * bool(anchor)}{anchor})"
        if not (ROOT / there).exists():
            return match[0]  # mkdocs says that it is broken
        if config.repo_url:
            return f"[{words}]({config.repo_url.rstrip('/')}/blob/main/{there})"
        shown = code(words).strip("`")
        return words if there.endswith(shown) and "/" in shown else f"{words} (`{there}`)"

    def code(text):
        return re.sub(r"\0(\d+)\0", lambda match: kept[int(match[1])], text)

    text = LINK.sub(link, CODE.sub(keep, text))  # code may stand in a link, but no link in code
    return code(UNIT.sub("\N{NO-BREAK SPACE}", text))


# --- notebooks


def markdown(path: Path) -> str:
    """A notebook as Markdown, with its saved outputs."""
    cells = json.loads(path.read_text())["cells"]
    return "\n\n".join(cell_text(cell) for cell in cells if "".join(cell["source"]).strip())


def cell_text(cell) -> str:
    source = "".join(cell["source"]).rstrip()
    if cell["cell_type"] != "code":
        return REMOTE.sub(r"\1", source)
    shell = source.startswith(("!", "%"))
    code = f"```{'sh' if shell else 'python'}\n{source}\n```"
    return "\n\n".join([code, *map(output_text, cell["outputs"])])


def output_text(output) -> str:
    """An output: a picture, a table, or text."""
    kinds = output.get("data", {})
    for kind in ("image/png", "image/svg+xml"):
        if kind in kinds:
            content = "".join(kinds[kind])
            if kind == "image/png":
                alt = html.escape("".join(kinds.get("text/plain", "a figure")))
                flat = "".join(content.split())
                return f'<img class="output" alt="{alt}" src="data:{kind};base64,{flat}">'
            return f'<div class="output">{"".join(content.splitlines())}</div>'
    if "text/html" in kinds:
        table = STYLED.sub("", "".join(kinds["text/html"]))
        lines = (line.strip() for line in table.splitlines())
        return f'<div class="output">{"".join(lines)}</div>'
    text = "".join(output.get("text", kinds.get("text/plain", output.get("traceback", ""))))
    text = re.sub(r"\x1b\[[0-9;]*m", "", text).rstrip()
    columns = " .columns" * ("  " in text)  # what is aligned must not wrap
    return f"```{{.text .output{columns}}}\n{text}\n```" if text else ""
