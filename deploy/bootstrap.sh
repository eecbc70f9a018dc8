#!/usr/bin/env bash
# Prepares this machine for the checkout: Debian packages and the Python environment in .venv.
#
#   deploy/bootstrap.sh            what make check, make unit and the lab need
#   deploy/bootstrap.sh --test     and what the tests need beyond that (a browser for the Consul UI, a broker)
#
# Can be run again at any time: it does only what is missing, and an interruption leaves nothing half-made.
# Without root it leaves the Debian packages out and says so. ORCH_NO_PACKAGES=1 does the same as root.
set -euo pipefail

checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
cache=${ORCH_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/orch}
say() { printf '\033[2m•\033[0m %s\n' "$*" >&2; }
die() { printf 'bootstrap: %s\n' "$*" >&2; exit 1; }

# What each package is for: the command that shows that it is there, then the package.
lab_packages=(
    debootstrap:debootstrap systemd-nspawn:systemd-container ip:iproute2 nft:nftables ethtool:ethtool
    ssh:openssh-client ssh-keygen:openssh-client nsenter:util-linux curl:curl make:make ping:iputils-ping npm:npm
)
test_packages=(chromium:chromium rabbitmq-server:rabbitmq-server sshd:openssh-server mariadbd:mariadb-server mariadb-backup:mariadb-backup)

missing_packages() {
    local entry
    for entry in "$@"; do
        command -v "${entry%%:*}" >/dev/null || PATH=$PATH:/usr/sbin:/sbin command -v "${entry%%:*}" >/dev/null \
            || printf '%s\n' "${entry##*:}"
    done | sort -u
}

install_packages() {
    local missing
    mapfile -t missing < <(missing_packages "$@")
    ((${#missing[@]})) || return 0
    if ((EUID != 0)) || [[ -n ${ORCH_NO_PACKAGES:-} ]]; then
        say "left out without root: the packages ${missing[*]}; the lab of four machines needs them"
        return 0
    fi
    command -v apt-get >/dev/null || die "needs a Debian or Ubuntu machine to install ${missing[*]}"
    say "installing packages: ${missing[*]}"
    mkdir -p "$cache/logs"
    local log=$cache/logs/packages.log
    {
        # A dpkg that was interrupted earlier refuses to go on until this is done.
        dpkg --configure -a
        keep_new_services_off
        apt-get -q -o DPkg::Lock::Timeout=300 update
        DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300 install -y --no-install-recommends \
            "${missing[@]}"
    } >"$log" 2>&1 </dev/null || { tail -20 "$log" >&2; die "the packages could not be installed (all of it in $log)"; }
}

# A package's service (the broker's) is for the tests to start, on ports of their own, not for this machine.
keep_new_services_off() {
    local policy=/usr/sbin/policy-rc.d
    [[ -e $policy ]] && return 0
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
    # shellcheck disable=SC2064
    trap "rm -f $policy" EXIT
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
            "$python" -c 'import ensurepip' 2>/dev/null || install_packages "no-such-command:python3-venv"
            say "making the Python environment (about a minute)"
            # Not renamed into place like the other caches: the paths in its scripts are absolute.
            # The file `complete`, written last, says that it is whole.
            rm -rf "$venv"
            "$python" -m venv "$venv"
            "$venv/bin/pip" install --quiet --disable-pip-version-check "setuptools>=68" wheel
            (cd "$checkout" && "$venv/bin/pip" install --quiet --disable-pip-version-check -e '.[dev]')
            "$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps --target "$venv/py-consul" "$consul_fork"
            touch "$venv/complete"
        fi
        exec 9>&-
    fi
    [[ $(readlink "$checkout/.venv" || true) == "$venv" ]] || ln -sfn "$venv" "$checkout/.venv"
}

wanted=("${lab_packages[@]}")
[[ ${1:-} == --test ]] && wanted+=("${test_packages[@]}")
install_packages "${wanted[@]}"
make_venv
