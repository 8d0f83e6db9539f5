"""Write docstrings as Markdown for mkdocstrings: no Sphinx roles, and a plain asterisk."""

import re

from griffe import Extension

ROLE = re.compile(r':(?:class|func|meth|mod|attr|data):`~?\.?([^`]+)`')
CODE = re.compile(r'(`+[^`]+`+)')


class MarkdownDocstrings(Extension):
    """Rewrite each docstring before it is parsed."""

    def on_instance(self, *, obj, **kwargs):
        """Turn :func:`name` into `name`, and * outside code into an escaped *."""
        if obj.docstring:
            text = CODE.split(ROLE.sub(r'`\1`', obj.docstring.value))
            text[::2] = [part.replace('*', '\\*') for part in text[::2]]
            obj.docstring.value = ''.join(text)
