#!/usr/bin/env bash
# Installs what the Makefile's targets need into a virtual environment: install.sh VENV demo|dev
#
# demo: simulator, ROS 2 wheels and the run time, no torch. dev: everything. Called by the Makefile only when its stamp
# is missing or older than setup.py and constraints.txt, so that a second run needs neither pip nor the network.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=$1
what=$2
export PATH="$PATH:/usr/sbin:/sbin"
export PIP_DISABLE_PIP_VERSION_CHECK=1
unset PYTHONPATH PYTHONHOME LD_LIBRARY_PATH _ROS_WHEELS_BOOTSTRAP_COMPLETE

fail() {
    echo "install: $*" >&2
    exit 2
}

pick_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.11 python3.12 python3.13 /usr/bin/python3}; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            "$candidate" -c 'import sys; print(sys.executable)'
            return
        fi
    done
    fail "Python 3.11 or newer is needed; ${PYTHON:-python3} is $("${PYTHON:-python3}" --version 2>&1 || true)." \
        "Install one, or name it: make PYTHON=/path/to/python3.12"
}

has_library() { ldconfig -p 2>/dev/null | grep -qF "$1"; }

has_gl_driver() {
    # A vendor's own EGL (NVIDIA) needs no Mesa driver.
    compgen -G '/usr/lib/*/dri/*_dri.so' >/dev/null || compgen -G '/usr/lib*/dri/*_dri.so' >/dev/null ||
        compgen -G '/usr/share/glvnd/egl_vendor.d/*nvidia*' >/dev/null
}

system_packages() {
    local missing=()
    has_library libEGL.so.1 || missing+=(libegl1)
    has_library libGL.so.1 || missing+=(libgl1)
    has_library libgthread-2.0.so.0 || missing+=(libglib2.0-0)
    has_gl_driver || missing+=(libgl1-mesa-dri)
    # Only Debian's own python3 comes without ensurepip, and only that one is mended by apt.
    "$python" -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
    [ ${#missing[@]} -eq 0 ] && return
    local line="apt-get install -y --no-install-recommends ${missing[*]}"
    if ! command -v apt-get >/dev/null; then
        fail "these system packages (Debian's names) are missing: ${missing[*]}"
    elif [ "$(id -u)" -ne 0 ]; then
        fail "system packages are missing; run: sudo $line"
    fi
    echo "install: system packages: ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    local log
    log=$(mktemp)
    # shellcheck disable=SC2086 # one word per argument is meant
    { apt-get update -qq && $line -qq; } >"$log" 2>&1 || {
        tail -n 20 "$log" >&2
        fail "apt-get did not succeed; run: apt-get update && $line"
    }
    rm -f "$log"
}

make_venv() {
    # One that was copied or moved here has scripts that start another interpreter.
    if ! "$venv/bin/python" -c 'import os, sys; sys.exit(not os.path.samefile(sys.prefix, sys.argv[1]))' "$venv" \
        2>/dev/null || ! head -n 1 "$venv/bin/pip" 2>/dev/null | grep -qF "$PWD"; then
        if [ -e "$venv" ] && [ ! -f "$venv/pyvenv.cfg" ]; then
            fail "$venv exists and is no virtual environment; give another folder, or remove it yourself"
        fi
        rm -rf "$venv"
        echo "install: $venv with $("$python" --version)"
        "$python" -m venv "$venv"
    fi
}

link_share() {
    # An editable install has no data files: the share folder is this checkout.
    local index="$venv/share/ament_index/resource_index/packages"
    mkdir -p "$index" "$venv/lib/rssm_ros"
    ln -sfn "$PWD" "$venv/share/rssm_ros"
    ln -sf "$PWD/resource/rssm_ros" "$index/rssm_ros"
    local node
    for node in "$venv"/bin/*_node; do
        ln -sf "$node" "$venv/lib/rssm_ros/$(basename "$node")"
    done
}

case $venv in /*) ;; *) venv=$PWD/$venv ;; esac
case $what in
demo) extras=ros,sim ;;
dev) extras=ros,sim,train,viz,dev ;;
*) fail "expected demo or dev, got '$what'" ;;
esac
python=$(pick_python)
system_packages
make_venv
echo "install: Python packages for $what (once; a minute or two)"
"$venv/bin/python" -m pip install -q -c constraints.txt setuptools
# setuptools warns at each editable install that it is one.
PYTHONWARNINGS=ignore "$venv/bin/python" -m pip install -q -c constraints.txt --no-build-isolation -e ".[$extras]"
link_share
touch "$venv/.installed-demo"
[ "$what" = dev ] && touch "$venv/.installed-dev"
echo "install: done"
