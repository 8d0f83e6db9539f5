"""Put README.md and every file that a page links to on the site.

A link out of docs/ works on the site as it does in the repository: Markdown becomes a
page, other text a page that shows it, and a picture is copied. A missing file is an error.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
FIRST = ['README.md', 'CONTRIBUTING.md', 'CHANGELOG.md']  # in the navigation
LINK = re.compile(r'(?<=\]\()(?!\w+:|#)[^)#\s]+')
PICTURES = ('.png', '.jpg')
LANGUAGES = {'.py': 'python', '.sh': 'bash', '.yml': 'yaml', '.json': 'json'}


def on_files(files, config):
    """Add the files that the pages link to, and those that these link to."""
    waiting = FIRST + [f'docs/{file.src_uri}' for file in files if file.src_uri.endswith('.md')]
    for path in waiting:
        if not path.startswith('docs/') and site_path(path) not in files.src_uris:
            files.append(File.generated(config, site_path(path), content=page_of(path)))
        if path.endswith('.md'):
            for link in LINK.findall((ROOT / path).read_text(encoding='utf-8')):
                if not (ROOT / target(path, link)).exists():
                    raise PluginError(f'{path} links to {link}, which does not exist')
                if target(path, link) not in waiting:
                    waiting.append(target(path, link))
    config.extra['repository_paths'] = {site_path(path): path for path in waiting}
    return files


def on_page_markdown(markdown, page, config, files):
    """Point the links of a page to where their files are on the site."""
    path = config.extra['repository_paths'].get(page.file.src_uri, '')
    if page.is_homepage:
        page.meta['hide'] = ['navigation']
    if not path.endswith('.md'):
        return markdown
    folder = posixpath.dirname(page.file.src_uri)
    return LINK.sub(
        lambda link: posixpath.relpath(site_path(target(path, link[0])), folder or '.'), markdown
    )


def on_page_content(html, page, config, files):
    """Point the links of the notebook to pages, which mkdocs-jupyter does not do."""
    if not page.file.src_uri.endswith('.ipynb'):
        return html
    return re.sub(
        r'(?<=href=")\w+\.md', lambda x: files.src_uris[x[0]].url_relative_to(page.file), html
    )


def target(path: str, link: str) -> str:
    """Return the path that a link names, from the root; a folder's README if it has one."""
    path = posixpath.normpath(posixpath.join(posixpath.dirname(path), link))
    return f'{path}/README.md' if (ROOT / path / 'README.md').is_file() else path


def site_path(path: str) -> str:
    """Return where a file of the repository is among the site's sources."""
    if path.startswith('docs/'):
        return path[len('docs/') :]
    if path == 'README.md':
        return 'index.md'
    return f'files/{path}' if path.endswith(('.md', *PICTURES)) else f'files/{path}.md'


def page_of(path: str):
    """Return a picture as it is, Markdown as it is, and other files and folders as Markdown."""
    file = ROOT / path
    if file.is_dir():
        names = sorted(x.name for x in file.iterdir() if not x.name.startswith(('.', '__')))
        return f'# {path}\n\n' + '\n'.join(f'- `{name}`' for name in names)
    if path.endswith(PICTURES):
        return file.read_bytes()
    text = file.read_text(encoding='utf-8')
    if path.endswith('.md'):
        return text
    header = f'---\nsearch:\n  exclude: true\n---\n\n# {path}\n\n'
    return f'{header}````{LANGUAGES.get(file.suffix, "text")}\n{text}\n````\n'
