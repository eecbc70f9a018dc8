"""The lab: four systemd machines on one host, with the names and addresses of the reference fleet.

Stage by stage, in the order in which `deploy/lab up` goes through them: `cache` (what is kept, and under which
key), `tools` (consul, consul-template, the wheel), `image` (base, baked by the project's own play), `network`
(namespaces, links, one bridge), `vm` (a systemd-nspawn container in cgroups of its own), `deployment` (site.yml
over SSH, saved states), `health`; then `faults` does harm on purpose. `lab.Lab` is the door for tests, demo and
bench; `cli` is the same door for people.

Nothing in here is part of orch itself, and orch never imports it.
"""
