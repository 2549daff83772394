#!/bin/sh
# Makes .venv with what setup.cfg asks for, in the versions of env/constraints.txt and env/constraints-dev.txt, of which
# only files with the hashes in there are taken; called by make.
#
#   env/venv.sh python  says which Python make uses where there is no .venv yet
#   env/venv.sh check   succeeds when .venv runs, and is of the Python that PYTHON names, if it names one
#   env/venv.sh run     has what the service needs, and writes the stamp .venv/.run
#   env/venv.sh dev     has what tests and linters need as well, and writes both stamps, .venv/.run and .venv/.dev
#
# The stamps are written last, so an interrupted install does not count. What goes wrong is one sentence on standard
# error; all that pip says is in the log.
set -u
cd "$(dirname "$0")/.." || exit 1

log=env/data/install.log
lock=env/data/install.lock
oldest='3.11'
new_enough='import sys; sys.exit(sys.version_info < (3, 11))'
version='import sys; print("%d.%d.%d" % sys.version_info[:3])'
which_python='import sys; print(sys.version, sys.base_prefix)'

fail() {
    printf '%s\n' "$*" >&2
    exit 1
}

find_python() {
    if [ -n "${PYTHON:-}" ]; then
        found=$("$PYTHON" -c "$version" 2>/dev/null)
        [ -n "$found" ] ||
            fail "PYTHON=$PYTHON is no Python that runs here; Genonaut needs Python $oldest or newer."
        "$PYTHON" -c "$new_enough" ||
            fail "PYTHON=$PYTHON is Python $found; Genonaut needs Python $oldest or newer."
        python=$PYTHON
        return
    fi
    old=''
    for python in python3 python3.13 python3.12 python3.11 python3.14; do
        # Also asked when it is on PATH: pyenv has commands for versions that it then says are not installed.
        found=$("$python" -c "$version" 2>/dev/null)
        [ -n "$found" ] || continue
        "$python" -c "$new_enough" && return
        old=$found
    done
    hint="Install it (Debian, Ubuntu: apt install python3 python3-venv; macOS: brew install python), or name one"
    hint="$hint that is not on PATH: make PYTHON=/path/to/python$oldest …"
    [ -n "$old" ] || fail "Genonaut needs Python $oldest or newer, and there is no Python on this machine. $hint"
    fail "Genonaut needs Python $oldest or newer; this machine's is $old. $hint"
}

# Whether .venv can be used as it is.
check() {
    .venv/bin/python -c "$new_enough" 2>/dev/null || return 1
    [ -n "${PYTHON:-}" ] || return 0
    [ "$(.venv/bin/python -c "$which_python")" = "$("$PYTHON" -c "$which_python" 2>/dev/null)" ]
}

is_fresh() {
    for source in setup.cfg pyproject.toml env/constraints.txt env/constraints-dev.txt; do
        [ ".venv/.$1" -nt "$source" ] || return 1
    done
    check
}

# One make at a time: the kernel releases the lock when this shell and what it started have ended.
wait_for_others() {
    exec 9>"$lock" || fail "The folder env/data cannot be written to."
    "$python" -c 'import fcntl; fcntl.flock(9, fcntl.LOCK_EX | fcntl.LOCK_NB)' 2>/dev/null && return
    echo 'Waiting for another make, which is installing.' >&2
    "$python" -c 'import fcntl; fcntl.flock(9, fcntl.LOCK_EX)'
}

make_venv() {
    # One without pip was left by an interrupted start.
    check && .venv/bin/python -m pip --version >/dev/null 2>&1 && return
    "$python" -c 'import venv, ensurepip' 2>/dev/null || {
        package="python$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv"
        fail "$python cannot make virtual environments, because its modules venv and ensurepip are missing." \
            "Install them (Debian, Ubuntu: apt install $package) and run make again."
    }
    "$python" -m venv --clear .venv >>"$log" 2>&1 </dev/null ||
        fail "Making .venv failed: $(last_error); all that was said is in $log."
}

last_error() {
    # These two say only that something was said above them.
    said=$(grep -iE '^ *(error|[a-z.]*error:)' "$log" | grep -vE 'exited-with-error|ResolutionImpossible' | tail -n 1)
    [ -n "$said" ] || said=$(grep -v '^ *$' "$log" | tail -n 1)
    printf '%s' "$said" | cut -c 1-300 | sed 's/^ *//; s/^[Ee][Rr][Rr][Oo][Rr]: *//; s/[. ]*$//'
}

pip_install() {
    # A pip.conf that asks for installs into the home folder would be an error in a virtual environment.
    PIP_USER=0 .venv/bin/python -m pip install --disable-pip-version-check --no-input "$@" >>"$log" 2>&1 </dev/null
}

install() {
    # There can be no hash of ourselves; what builds us has been installed before.
    if pip_install --require-hashes "$@" && pip_install --no-deps --no-build-isolation -e .; then
        missing=$(.venv/bin/python -m pip check 2>>"$log" | grep "^genonaut " | head -n 1)
        [ -z "$missing" ] || fail "Installing failed: $missing Run make constraints, and then make again."
        return
    fi
    if grep -q 'No space left on device' "$log"; then
        fail "Installing failed because the disk is full: make room and run make again; what pip said is in $log."
    fi
    if grep -qiE 'NewConnectionError|name resolution|getaddrinfo|ConnectTimeout|ReadTimeout|ProxyError|unreachable' \
        "$log"; then
        fail "Installing failed because the package index cannot be reached: check the network, or pip's settings of" \
            "index and proxy, and run make again; what pip said is in $log."
    fi
    fail "Installing failed: $(last_error). All that pip said is in $log."
}

case ${1:-} in
check)
    check
    exit
    ;;
python)
    find_python
    printf '%s\n' "$python"
    exit
    ;;
run) stamps=run ;;
dev) stamps='run dev' ;;
*) fail "usage: env/venv.sh check|python|run|dev" ;;
esac

trap 'fail "Interrupted while installing; the next make begins it again."' INT TERM HUP
mkdir -p env/data 2>/dev/null || fail "The folder env/data cannot be made."
find_python
wait_for_others
is_fresh "$1" && exit
: >"$log" || fail "The file $log cannot be written to."
echo "Installing into .venv, with Python $found; what pip says goes to $log …" >&2
began=$(date +%s)
make_venv
# As old as the files that are read now: one that is edited meanwhile is newer, and counts at the next make.
rm -f .venv/.run .venv/.dev
: >.venv/.new
case $1 in
run) install -r env/constraints.txt ;;
dev) install -r env/constraints.txt -r env/constraints-dev.txt ;;
esac
for stamp in $stamps; do
    cp -p .venv/.new ".venv/.$stamp"
done
rm -f .venv/.new
echo "Installed in $(($(date +%s) - began)) s." >&2
