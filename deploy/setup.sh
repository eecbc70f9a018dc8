#!/usr/bin/env bash
# Sets this VM up from the checkout on it: finds out from the inventory which VM this is, and installs what any
# service needs. Run again at any time: it changes nothing that is as it should be.
#
#   deploy/setup.sh             install on this VM (as root or with sudo); run it on every VM
#   deploy/setup.sh --deploy    then, on one VM (a controller): deploy the fleet from here over SSH, as the account
#                               that you name with --user and whose key your SSH agent or ~/.ssh has
#   deploy/setup.sh --which     only say which VM this is
#
# Options: --user NAME (account on the other VMs), --inventory FILE, --consul FILE, --consul-template FILE (programs
# to install; without them those on the VM's PATH are taken). What follows `--` goes to ansible-playbook.
set -euo pipefail

checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
ansible=$checkout/ansible
inventory=$ansible/inventory/hosts
venv=${ORCH_VENV:-/opt/orch/venv}
control=${ORCH_CONTROL:-/opt/orch/control}
action=install user='' consul='' consul_template=''
rest=()

say() { printf '• %s\n' "$*" >&2; }
die() { printf 'setup: %s\n' "$*" >&2; exit 1; }
usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"; }

while (($#)); do
    case $1 in
        --deploy) action=deploy ;;
        --which) action=which ;;
        --user | --inventory | --consul | --consul-template)
            [[ -n ${2:-} ]] || die "$1 needs a value"
            name=${1#--}
            printf -v "${name//-/_}" '%s' "$2"
            shift
            ;;
        -h | --help) usage; exit 0 ;;
        --) shift; rest=("$@"); break ;;
        *) die "$1 is no option; deploy/setup.sh --help tells them" ;;
    esac
    shift
done
[[ -r $inventory ]] || die "there is no inventory at $inventory"

# Which line of the inventory has one of this VM's own addresses.
this_vm() {
    local own
    own=$(ip -o addr show scope global | awk '{ split($4, a, "/"); print a[1] }')
    awk -v own="$own" '
        BEGIN { n = split(own, list, "\n"); for (i = 1; i <= n; i++) mine[list[i]] = 1 }
        /^[[:space:]]*(#|\[|$)/ { next }
        { for (i = 2; i <= NF; i++) if (split($i, kv, "=") == 2 && kv[1] == "ansible_host" && kv[2] in mine) { print $1; exit } }
    ' "$inventory"
}

vm=$(this_vm)
[[ -n $vm ]] || die "none of this VM's addresses ($(ip -o addr show scope global \
    | awk '{ split($4, a, "/"); print a[1] }' | paste -sd' ')) stands in $inventory: add this VM there"
say "this VM is $vm"
[[ $action != which ]] || exit 0

# The file that says that orch's environment has all that this checkout asks for: as the role `packages` names it.
libraries_stamp() {
    local digest
    digest=$(python3 -c 'import configparser, hashlib, sys
options = configparser.ConfigParser()
options.read(sys.argv[1])
print(hashlib.sha256(options["options"]["install_requires"].encode()).hexdigest()[:16])' "$checkout/setup.cfg") || return
    printf '%s/.libraries-%s' "$venv" "$digest"
}

# Where the VM has no Ansible of its own: that of orch, if nothing is going to be installed under its feet; else one in
# an environment beside it, of the same versions.
find_ansible() {
    if command -v ansible-playbook >/dev/null; then
        playbook=$(command -v ansible-playbook)
        return
    fi
    if [[ -x $venv/bin/ansible-playbook && -e $(libraries_stamp) ]]; then
        playbook=$venv/bin/ansible-playbook
        return
    fi
    if [[ ! -e $control/complete ]]; then
        ((EUID == 0)) || die "there is no ansible-playbook: install Ansible, or run this as root"
        if ! python3 -c 'import ensurepip' 2>/dev/null; then
            say "installing python3-venv"
            apt-get -q update >/dev/null
            DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends python3-venv >/dev/null
        fi
        say "installing Ansible in $control"
        rm -rf "$control"
        python3 -m venv "$control"
        "$control/bin/pip" install --quiet --disable-pip-version-check 'ansible-core>=2.15'
        touch "$control/complete"
    fi
    playbook=$control/bin/ansible-playbook
}

find_ansible
export ANSIBLE_CONFIG=$ansible/ansible.cfg
become=()
((EUID == 0)) && become=(-e ansible_become=false)

if [[ $action == install ]]; then
    say "installing the packages and libraries of every service on $vm"
    programs=()
    [[ -z $consul ]] || programs+=(-e "consul_binary=$(realpath "$consul")")
    [[ -z $consul_template ]] || programs+=(-e "consul_template_binary=$(realpath "$consul_template")")
    "$playbook" -i "$inventory" -c local --limit "$vm" "${become[@]}" ${programs[@]+"${programs[@]}"} \
        ${rest[@]+"${rest[@]}"} "$ansible/playbooks/pre_install_services.yml"
    say "$vm has all it needs. When every VM has: deploy/setup.sh --deploy on one of the controllers"
else
    here=$(mktemp --suffix=.ini)
    trap 'rm -f "$here"' EXIT
    printf '%s ansible_connection=local\n' "$vm" >"$here"
    say "deploying the fleet from $vm"
    "$playbook" -i "$inventory" -i "$here" ${user:+-e "ansible_user=$user"} ${rest[@]+"${rest[@]}"} \
        "$ansible/playbooks/site.yml"
fi
