"""Read every file below a directory of the control node, as `orch_files` takes them."""

from __future__ import annotations

import os
from pathlib import Path

from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase

DOCUMENTATION = r"""
name: orch_tree
short_description: Files of a directory of the control node, with their contents
options:
  _terms: {description: Directories., required: true}
  dest: {description: The directory on the VM., type: str, required: true}
  label: {description: Label of each file., type: str, default: ""}
  skip: {description: Relative paths to leave out., type: list, elements: str, default: []}
"""

SKIPPED = {"__pycache__", ".git", "node_modules"}


class LookupModule(LookupBase):
    """One dictionary per file: path on the VM, text, mode. Symbolic links to folders are left to the caller."""

    def run(self, terms, variables=None, **options):
        self.set_options(var_options=variables, direct=options)
        dest, label, skip = self.get_option("dest"), self.get_option("label"), set(self.get_option("skip"))
        found = []
        for term in terms:
            top = Path(term).resolve()
            if not top.is_dir():
                raise AnsibleLookupError(f"{top} is not a directory")
            for folder, names, files in os.walk(top):
                names[:] = sorted(name for name in names if name not in SKIPPED and not name.startswith("."))
                for name in sorted(files):
                    path = Path(folder, name)
                    relative = path.relative_to(top).as_posix()
                    if relative in skip or name.endswith((".pyc", "~", ".swp")):
                        continue
                    mode = "0755" if os.access(path, os.X_OK) else "0644"
                    found.append(
                        {"path": f"{dest}/{relative}", "content": path.read_text(), "mode": mode, "label": label}
                    )
        return found
