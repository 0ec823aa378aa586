"""What a built site must hold, beyond what mkdocs sees: each warning fails the strict build.

Also raw HTML leads somewhere, and a page loads nothing from elsewhere: it reads without a network.
"""

from __future__ import annotations

import logging
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

log = logging.getLogger("mkdocs.hooks.checks")
LOADED = ("script", "link", "img", "iframe", "source")  # what a browser fetches by itself


class Page(HTMLParser):
    """The ids of a page, and its links: of which tag, and where to."""

    def __init__(self, text: str):
        super().__init__()
        self.ids: set[str] = set()
        self.links: set[tuple[str, str]] = set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.ids |= {value for name in ("id", "name") if (value := given.get(name))}
        if given.get("rel") not in ("prev", "next", "canonical"):  # addresses, not files
            self.links |= {(tag, value) for n in ("href", "src") if (value := given.get(n))}


def on_post_build(config):
    """Follows each link of each page."""
    site = Path(config.site_dir)
    pages = {path: Page(path.read_text()) for path in site.rglob("*.html")}
    for path in sorted(pages.keys() - {site / "404.html"}):  # that is served in place of any page
        for tag, link in sorted(pages[path].links):
            if trouble := broken(path, tag, link, pages):
                log.warning("%s: %s %s", path.relative_to(site), link, trouble)


def broken(path: Path, tag: str, link: str, pages: dict[Path, Page]) -> str:
    """What is wrong with a page's link; nothing if it is fine."""
    url = urlsplit(link)
    if url.scheme or url.netloc:
        return "needs a network" if tag in LOADED and url.scheme != "data" else ""
    there = (path.parent / unquote(url.path)).resolve() if url.path else path
    if not there.is_file():
        return "is not there"
    if there in pages and not {url.fragment, unquote(url.fragment)} & {"", *pages[there].ids}:
        return "has no such anchor"
    return ""
