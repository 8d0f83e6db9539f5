"""The file results.json: environment, settings and a list of rows per step."""

import json
import os
from pathlib import Path
from typing import Any, Dict


class Results:
    """Results that are on disk as soon as they are added.

    Args:
        folder: Holds results.json, which is read if it is there.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / 'results.json'
        self.data: Dict[str, Any] = {}
        if self.path.exists():
            self.data = json.loads(self.path.read_text())

    def rows(self, step: str) -> list:
        return self.data.get(step, [])

    def add(self, step: str, row: Dict) -> None:
        """Append a row to a step's, and write."""
        self.data.setdefault(step, []).append(row)
        self.write()

    def write(self) -> None:
        """Replace the file as a whole: a killed process leaves it readable."""
        new = self.path.with_suffix('.new')
        new.write_text(json.dumps(self.data, indent=1) + '\n')
        os.replace(new, self.path)
