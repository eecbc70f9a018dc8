#!/usr/bin/env bash
# Prepares this machine for the checkout: Debian packages and the Python environment in .venv.
#
#   deploy/bootstrap.sh            what make check, make unit and the lab need
#   deploy/bootstrap.sh --test     and what the tests need beyond that (a browser for the Consul UI, a broker, a compiler)
#
# Can be run again at any time: it does only what is missing, and an interruption leaves nothing half-made.
# Without root it leaves the Debian packages out and says so. ORCH_NO_PACKAGES=1 does the same as root.
set -euo pipefail

checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
cache=${ORCH_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/orch}
say() { printf '\033[2m•\033[0m %s\n' "$*" >&2; }
die() { printf 'bootstrap: %s\n' "$*" >&2; exit 1; }

# Says what is done and, until stop_clock, the seconds that it takes: in place on a terminal, else a line each 30 s.
clock=''
start_clock() {
    say "$*"
    local every=30 began=$SECONDS begin='' end='\n'
    [[ -t 2 ]] && every=1 begin='\r\033[K' end=''
    {
        # A pipe that nobody writes to: no `sleep` is left behind, and no clock by a script that was killed.
        exec {never}<> <(:)
        while kill -0 $$ 2>/dev/null; do
            read -rt "$every" -u "$never" || true
            # shellcheck disable=SC2059
            printf "$begin  %4d s$end" $((SECONDS - began)) >&2
        done
    } 8>&- 9>&- </dev/null >/dev/null &
    clock=$!
}

stop_clock() {
    [[ -n $clock ]] || return 0
    kill "$clock" 2>/dev/null || true
    wait "$clock" 2>/dev/null || true
    clock=''
    [[ ! -t 2 ]] || printf '\r\033[K' >&2
}

policy_is_ours=''
tidy_up() {
    stop_clock
    [[ -z $policy_is_ours ]] || let_new_services_start
}
trap tidy_up EXIT

# What each package is for: the command that shows that it is there, then the package.
lab_packages=(
    debootstrap:debootstrap systemd-nspawn:systemd-container ip:iproute2 nft:nftables ethtool:ethtool
    ssh:openssh-client ssh-keygen:openssh-client nsenter:util-linux curl:curl make:make ping:iputils-ping npm:npm
)
test_packages=(
    rabbitmq-server:rabbitmq-server sshd:openssh-server node:nodejs
    mariadbd:mariadb-server mariadb-backup:mariadb-backup promtool:prometheus cc:gcc cc:libc6-dev
)
os_release=/etc/os-release

# Ubuntu's package `chromium` holds no browser: it has snapd fetch one. Playwright brings its own there.
is_ubuntu() {
    # shellcheck source=/dev/null
    (. "$os_release" && [[ " $ID ${ID_LIKE:-} " == *" ubuntu "* ]]) 2>/dev/null
}

wanted_packages() {
    printf '%s\n' "${lab_packages[@]}"
    [[ ${1:-} == --test ]] || return 0
    printf '%s\n' "${test_packages[@]}"
    is_ubuntu || printf 'chromium:chromium\n'
}

missing_packages() {
    local entry
    for entry in "$@"; do
        command -v "${entry%%:*}" >/dev/null || PATH=$PATH:/usr/sbin:/sbin command -v "${entry%%:*}" >/dev/null \
            || printf '%s\n' "${entry##*:}"
    done | sort -u
}

may_install() { ((EUID == 0)) && [[ -z ${ORCH_NO_PACKAGES:-} ]]; }

install_packages() {
    local missing
    if ! may_install; then
        mapfile -t missing < <(missing_packages "$@")
        ((! ${#missing[@]})) || say "left out without root: the packages ${missing[*]}; the lab of four machines needs them"
        return 0
    fi
    mkdir -p "$cache/locks" "$cache/logs"
    exec 8>"$cache/locks/packages.lock"
    flock -n 8 || { say "waiting for another run that installs packages"; flock 8; }
    # One run at a time comes here: a policy of ours that is there already was left by one that was killed.
    let_new_services_start
    mapfile -t missing < <(missing_packages "$@")
    ((! ${#missing[@]})) || install_missing "${missing[@]}"
    exec 8>&-
}

install_missing() {
    command -v apt-get >/dev/null || die "needs a Debian or Ubuntu machine to install $*"
    start_clock "installing packages: $*"
    local log=$cache/logs/packages.log
    {
        # A dpkg that was interrupted earlier refuses to go on until this is done.
        dpkg --configure -a
        keep_new_services_off
        apt-get -q -o DPkg::Lock::Timeout=300 update
        DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "$@"
    } >"$log" 2>&1 </dev/null || { stop_clock; tail -20 "$log" >&2; die "the packages could not be installed (all of it in $log)"; }
    stop_clock
    let_new_services_start
}

# A package's service (the broker's) is for the tests to start, on ports of their own, not for this machine.
policy=/usr/sbin/policy-rc.d
policy_mark='# Made by deploy/bootstrap.sh of orch while it installs packages, which removes it afterwards.'

keep_new_services_off() {
    [[ -e $policy ]] && return 0
    policy_is_ours=1
    printf '#!/bin/sh\n%s\nexit 101\n' "$policy_mark" >"$policy"
    chmod 755 "$policy"
}

# Takes away only what this script made: a policy of the machine's own stays.
let_new_services_start() {
    if grep -qsxF "$policy_mark" "$policy"; then rm -f "$policy"; fi
}

find_python() {
    local candidate
    for candidate in python3 python3.13 python3.12 python3.11 python3.10; do
        if command -v "$candidate" >/dev/null \
            && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
            "$candidate" -c 'import sys; print(sys.executable)'
            return 0
        fi
    done
    die "needs Python 3.10 or newer"
}

have_ensurepip() {
    "$1" -c 'import ensurepip' 2>/dev/null && return
    may_install || die "needs the package python3-venv to make the Python environment that everything of this checkout" \
        "runs in: install it as root (apt-get install python3-venv), then run this again"
    install_packages "no-such-command:python3-venv"
}

# The environment follows from the dependencies, and (the checkout being installed in it) from where that is.
# The maintained fork of python-consul2, beside it: the store must pass its contract with either.
consul_fork='py-consul>=1.6,<2'

venv_key() {
    { awk '/^\[/ { wanted = /^\[options/ } wanted' "$checkout/setup.cfg"; printf '%s\n' "$checkout" "$consul_fork" "venv 2"; } \
        | sha256sum | cut -c1-16
}

make_venv() {
    local key venv python
    key=$(venv_key)
    venv=$cache/venv/$key
    if [[ ! -e $venv/complete || ! -x $venv/bin/python ]]; then
        mkdir -p "$cache/venv" "$cache/locks" "$cache/logs"
        exec 9>"$cache/locks/venv-$key.lock"
        flock -n 9 || { say "waiting for another run that makes the same Python environment"; flock 9; }
        if [[ ! -e $venv/complete || ! -x $venv/bin/python ]]; then
            python=$(find_python)
            have_ensurepip "$python"
            start_clock "making the Python environment (about a minute)"
            # Not renamed into place like the other caches: the paths in its scripts are absolute.
            # The file `complete`, written last, says that it is whole.
            rm -rf "$venv"
            "$python" -m venv "$venv"
            "$venv/bin/pip" install --quiet --disable-pip-version-check "setuptools>=68" wheel
            (cd "$checkout" && "$venv/bin/pip" install --quiet --disable-pip-version-check -e '.[dev]')
            "$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps --target "$venv/py-consul" "$consul_fork"
            touch "$venv/complete"
            stop_clock
        fi
        exec 9>&-
    fi
    [[ $(readlink "$checkout/.venv" || true) == "$venv" ]] || ln -sfn "$venv" "$checkout/.venv"
}

# In a folder of its own, which the Makefile puts first in PATH: nothing else of the environment belongs there.
have_playwrights_browser() {
    local venv=$checkout/.venv log=$cache/logs/browser.log where
    [[ -x $venv/browser/chromium ]] && return
    if ! may_install; then
        say "left out without root: a browser; the tests of the Consul UI need it"
        return 0
    fi
    start_clock "installing Playwright's Chromium and the libraries that it needs"
    export PLAYWRIGHT_BROWSERS_PATH=$cache/browsers
    flock "$cache/locks/packages.lock" "$venv/bin/playwright" install --with-deps chromium >"$log" 2>&1 </dev/null \
        || { stop_clock; tail -20 "$log" >&2; die "the browser could not be installed (all of it in $log)"; }
    stop_clock
    where=$("$venv/bin/python" -c 'from playwright.sync_api import sync_playwright as playwright
with playwright() as started: print(started.chromium.executable_path)')
    mkdir -p "$venv/browser"
    ln -sfn "$where" "$venv/browser/chromium"
}

# `ln -sfn` would put its link into a directory of this name instead of in its place.
refuse_other_venv() {
    [[ ! -e $checkout/.venv || -L $checkout/.venv ]] \
        || die "$checkout/.venv is not the link that this script makes, but an environment of somebody's own:" \
            "move it out of the checkout or remove it, then run this again"
}

# The tests read the functions alone.
[[ ${BASH_SOURCE[0]} == "$0" ]] || return 0

refuse_other_venv
mapfile -t wanted < <(wanted_packages "$@")
install_packages "${wanted[@]}"
make_venv
if [[ ${1:-} == --test ]] && is_ubuntu; then have_playwrights_browser; fi
