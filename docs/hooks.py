"""What the site has beyond this folder: the files of the repository that its pages link to, so that it stands alone.

A page links to a file as it lies in the repository (`../results/cost.csv`), which any viewer of the repository follows.
In the site the file lies below `repository/`, and the link leads there.
"""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

FOLDER = "repository"
OUTSIDE = re.compile(r"\]\(\.\./([^)#]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files that the pages link to."""
    docs = Path(config.docs_dir)
    for path in sorted({path for page in docs.glob("*.md") for path in OUTSIDE.findall(page.read_text())}):
        source = docs.parent / path
        if source.is_file():  # a missing one is then a link that leads nowhere, of which the build warns
            files.append(File.generated(config, f"{FOLDER}/{path}", abs_src_path=str(source)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Let the links lead to where the files lie in the site, and those of such files back to the pages."""
    if page.file.src_uri.startswith(f"{FOLDER}/"):
        return markdown.replace("](docs/", "](../")
    return OUTSIDE.sub(rf"]({FOLDER}/\1", markdown)
