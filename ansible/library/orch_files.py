#!/usr/bin/python
"""Write many small text files in one module call.

Deploying a VM means some forty small files. One `template` task each costs three round trips and half a second
per VM; this module takes them all at once through the connection that is open already, writes those that differ
(each atomically) and says which ones, so that the play restarts only what they belong to.
"""

from __future__ import annotations

import grp
import json
import os
import pwd
import stat
import subprocess

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.orch_file import replace_file

DOCUMENTATION = r"""
module: orch_files
short_description: Write many small text files at once
options:
  files:
    description: The files, in the order in which they are written.
    type: list
    elements: dict
    required: true
    suboptions:
      path: {description: Absolute path., type: path, required: true}
      content: {description: Text; anything else is written as JSON., type: raw, required: true}
      mode: {description: Octal mode as text., type: str, default: "0644"}
      owner: {type: str, default: root}
      group: {type: str, default: root}
      only_if_absent: {description: Leave an existing file as it is., type: bool, default: false}
      label: {description: Returned in C(labels) when the file changed., type: str, default: ""}
      check:
        description: Words of a command that judges new content (its path is added). Where it fails nothing is replaced.
        type: list
        elements: str
        default: []
  directories:
    description: Directories that must exist before the files are written.
    type: list
    elements: dict
    default: []
  links:
    description: Symbolic links, path to target.
    type: dict
    default: {}
  prune:
    description: Directories in which files that are not listed in C(files) are removed.
    type: list
    elements: path
    default: []
"""

RETURN = r"""
written: {description: Paths that changed., type: list, returned: always}
created: {description: Those of them that were not there before., type: list, returned: always}
labels: {description: Labels of the files that changed., type: list, returned: always}
"""

FILE_OPTIONS = {
    "path": {"type": "path", "required": True},
    "content": {"type": "raw", "required": True},
    "mode": {"type": "str", "default": "0644"},
    "owner": {"type": "str", "default": "root"},
    "group": {"type": "str", "default": "root"},
    "only_if_absent": {"type": "bool", "default": False},
    "label": {"type": "str", "default": ""},
    "check": {"type": "list", "elements": "str", "default": []},
}
DIRECTORY_OPTIONS = {
    "path": {"type": "path", "required": True},
    "mode": {"type": "str", "default": "0755"},
    "owner": {"type": "str", "default": "root"},
    "group": {"type": "str", "default": "root"},
}


def as_bytes(content):
    """Return a file's bytes. Ansible before 2.19 turns text that looks like JSON into a value: turn it back."""
    if isinstance(content, str):
        return content.encode()
    return (json.dumps(content, indent=2) + "\n").encode()


def identity(spec):
    return pwd.getpwnam(spec["owner"]).pw_uid, grp.getgrnam(spec["group"]).gr_gid, int(spec["mode"], 8)


def differs_in_owner_or_mode(status, spec):
    uid, gid, mode = identity(spec)
    return status.st_uid != uid or status.st_gid != gid or stat.S_IMODE(status.st_mode) != mode


def take_owner_and_mode(path, spec):
    uid, gid, mode = identity(spec)
    os.chown(path, uid, gid)
    os.chmod(path, mode)


def differing(spec, content):
    """Return what is wrong with the file: "", "content" or "attributes"."""
    try:
        status = os.lstat(spec["path"])
    except FileNotFoundError:
        return "content"
    if not stat.S_ISREG(status.st_mode):
        return "content"
    if not spec["only_if_absent"]:
        with open(spec["path"], "rb") as present:
            if present.read() != content:
                return "content"
    return "attributes" if differs_in_owner_or_mode(status, spec) else ""


def write(spec, content):
    """Replace the file, unless the command that judges it says no."""

    def judge(candidate):
        judged = subprocess.run([*spec["check"], candidate], stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if judged.returncode != 0:
            said = f"{spec['check'][0]} refuses what was to replace it: {(judged.stderr or judged.stdout).strip()}"
            raise ValueError(f"{spec['path']} stays as it is: {said}")

    replace_file(spec["path"], content, *identity(spec), judge if spec["check"] else None)


def make_directory(spec, check_mode):
    if os.path.isdir(spec["path"]) and not differs_in_owner_or_mode(os.stat(spec["path"]), spec):
        return False
    if not check_mode:
        os.makedirs(spec["path"], exist_ok=True)
        take_owner_and_mode(spec["path"], spec)
    return True


def make_link(path, target, check_mode):
    if os.path.islink(path) and os.readlink(path) == target:
        return False
    if not check_mode:
        candidate = f"{path}.orch-new"
        if os.path.lexists(candidate):
            os.unlink(candidate)
        os.symlink(target, candidate)
        os.replace(candidate, path)
    return True


def strangers(folders, wanted):
    found = []
    for top in folders:
        for folder, names, files in os.walk(top):
            names[:] = [name for name in names if name != "__pycache__"]
            found += [path for path in (os.path.join(folder, name) for name in files) if path not in wanted]
    return sorted(found)


def main():
    module = AnsibleModule(
        argument_spec={
            "files": {"type": "list", "elements": "dict", "required": True, "options": FILE_OPTIONS},
            "directories": {"type": "list", "elements": "dict", "default": [], "options": DIRECTORY_OPTIONS},
            "links": {"type": "dict", "default": {}},
            "prune": {"type": "list", "elements": "path", "default": []},
        },
        supports_check_mode=True,
    )
    params, changed, created, labels = module.params, [], [], set()
    try:
        for spec in params["directories"]:
            if make_directory(spec, module.check_mode):
                changed.append(spec["path"])
        for spec in params["files"]:
            content = as_bytes(spec["content"])
            difference = differing(spec, content)
            if not difference:
                continue
            changed.append(spec["path"])
            if not os.path.lexists(spec["path"]):
                created.append(spec["path"])
            labels.update(label for label in (spec["label"],) if label)
            if module.check_mode:
                continue
            os.makedirs(os.path.dirname(spec["path"]), exist_ok=True)
            if difference == "content":
                write(spec, content)
            else:
                take_owner_and_mode(spec["path"], spec)
        for path, target in params["links"].items():
            if make_link(path, target, module.check_mode):
                changed.append(path)
        for path in strangers(params["prune"], {spec["path"] for spec in params["files"]}):
            changed.append(path)
            if not module.check_mode:
                os.unlink(path)
    except (OSError, KeyError, ValueError) as error:
        module.fail_json(msg=f"cannot write the files: {error}", written=changed)
    module.exit_json(changed=bool(changed), written=changed, created=created, labels=sorted(labels))


if __name__ == "__main__":
    main()
