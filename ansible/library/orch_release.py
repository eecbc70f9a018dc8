#!/usr/bin/python
"""Install a release of the playbooks beside those that are there, and switch to it.

Each release has a folder of its own, `<home>/releases/<digest>`, and `<home>/plays` is a link to the current one. A
play that runs goes on with the folder that it began with; no play sees half of a release. A folder whose contents are
not what its digest says (somebody edited it) is never mended in place: the release gets another folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: orch_release
short_description: Install a release of the playbooks and switch to it
options:
  home: {description: The folder that has `releases` and `plays`., type: path, required: true}
  files:
    description: Everything that a release has, with paths relative to it. Others may read all of it.
    type: list
    elements: dict
    required: true
  links: {description: Relative path -> target., type: dict, default: {}}
  digest: {description: What the release must have; nothing is changed where it has another., type: str}
"""

SKIPPED = "__pycache__"
# What a play may still be running from: longer than any play may take.
KEPT_S = 3600
# However old: when deployments did not come to their end, commands are still decided for an earlier release.
KEPT_RELEASES = 5


def digest_of_lines(lines):
    """Return the digest; orchestrator/execute/releases.py counts in the same way."""
    whole = hashlib.sha256()
    for line in sorted(lines):
        whole.update(json.dumps(line).encode() + b"\n")
    return whole.hexdigest()


def lines_given(files, links):
    found = [[path, "link", target] for path, target in links.items()]
    for spec in files:
        kind = "program" if int(spec.get("mode", "0644"), 8) & 0o100 else "file"
        found.append([spec["path"], kind, hashlib.sha256(as_bytes(spec["content"])).hexdigest()])
    return found


def lines_of_tree(top):
    found = []
    for part in ("ansible", "templates"):
        for folder, names, files in os.walk(os.path.join(top, part)):
            names[:] = [name for name in names if name != SKIPPED]
            links = [name for name in names if os.path.islink(os.path.join(folder, name))]
            for name in [name for name in files if not name.endswith(".pyc")] + links:
                path = os.path.join(folder, name)
                relative = os.path.relpath(path, top)
                if os.path.islink(path):
                    found.append([relative, "link", os.readlink(path)])
                    continue
                with open(path, "rb") as file:
                    kind = "program" if os.fstat(file.fileno()).st_mode & 0o100 else "file"
                    found.append([relative, kind, hashlib.sha256(file.read()).hexdigest()])
    return found


def as_bytes(content):
    return content.encode() if isinstance(content, str) else (json.dumps(content, indent=2) + "\n").encode()


def folder_with(releases, digest):
    """Return the folder whose contents are those of the digest now, or None."""
    for name in sorted(os.listdir(releases)):
        path = os.path.join(releases, name)
        if not name.startswith(".") and digest_of_lines(lines_of_tree(path)) == digest:
            return path
    return None


def lay(releases, files, links, digest):
    """Write the release into a new folder, which gets its name when it is whole."""
    new = os.path.join(releases, f".new-{os.getpid()}")
    shutil.rmtree(new, ignore_errors=True)
    for spec in files:
        path = os.path.join(new, spec["path"])
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(as_bytes(spec["content"]))
        os.chmod(path, int(spec.get("mode", "0644"), 8))
    for path, target in links.items():
        os.makedirs(os.path.dirname(os.path.join(new, path)), exist_ok=True)
        os.symlink(target, os.path.join(new, path))
    if digest_of_lines(lines_of_tree(new)) != digest:
        raise ValueError("what was written is not what was given")
    os.sync()
    path, number = os.path.join(releases, digest[:16]), 1
    while os.path.lexists(path):
        number += 1
        path = os.path.join(releases, f"{digest[:16]}-{number}")
    os.rename(new, path)
    return path


def switch(link, path):
    """Have the link lead to the folder; the former one is from now on one that a play may still be running from."""
    former = os.path.realpath(link)
    candidate = link + ".orch-new"
    if os.path.lexists(candidate):
        os.unlink(candidate)
    os.symlink(os.path.relpath(path, os.path.dirname(link)), candidate)
    os.replace(candidate, link)
    if os.path.isdir(former):
        os.utime(former)


def prune(releases, current):
    """Remove what is left of interrupted runs, and all releases but the current one, the newest and those of late."""
    paths = [os.path.join(releases, name) for name in os.listdir(releases)]
    wholes = [path for path in paths if path != current and not os.path.basename(path).startswith(".")]
    newest = sorted(wholes, key=lambda path: os.lstat(path).st_mtime)[-(KEPT_RELEASES - 1) :]
    for path in paths:
        if path not in (current, *newest) and os.lstat(path).st_mtime < time.time() - KEPT_S:
            shutil.rmtree(path, ignore_errors=True)


def main():
    module = AnsibleModule(
        argument_spec={
            "home": {"type": "path", "required": True},
            "files": {"type": "list", "elements": "dict", "required": True},
            "links": {"type": "dict", "default": {}},
            "digest": {"type": "str"},
        },
        supports_check_mode=True,
    )
    home, files, links = (module.params[name] for name in ("home", "files", "links"))
    releases, link = os.path.join(home, "releases"), os.path.join(home, "plays")
    os.umask(0o022)
    try:
        digest = digest_of_lines(lines_given(files, links))
        if module.params["digest"] not in (None, digest):
            raise ValueError(f"somebody has just changed them: {digest[:12]}, not {module.params['digest'][:12]}")
        current = os.path.realpath(link)
        changed = not (os.path.islink(link) and digest_of_lines(lines_of_tree(current)) == digest)
        if changed and not module.check_mode:
            os.makedirs(releases, exist_ok=True)
            path = folder_with(releases, digest) or lay(releases, files, links, digest)
            switch(link, path)
            prune(releases, path)
    except (OSError, KeyError, ValueError) as error:
        module.fail_json(msg=f"cannot install the playbooks: {error}")
    module.exit_json(changed=changed, digest=digest)


if __name__ == "__main__":
    main()
