# Makes sure that no earlier phase goes on in this machine, and begins one.
#
#   $1 the phase's own program   $2… its arguments
#
# An earlier one is still there where adt was killed with it: what it started is about to end, but nobody waited for that.
# The first process of its namespace is gone, or a zombie, only when the kernel has ended all others in it.
set -eu
born() {
    read -r stat < "/proc/$1/stat" || return 1
    set -- ${stat##*) }
    [ "$1" != Z ] && echo "${20}"
}
if [ -f /run/adt-phase.init ]; then
    read -r pid since < /run/adt-phase.init
    tries=0
    while [ "$(born "$pid" 2> /dev/null)" = "$since" ]; do
        tries=$((tries + 1))
        if [ $tries = 1000 ]; then
            echo "an earlier phase, process $pid of the machine, does not end" >&2
            exit 125
        fi
        kill -KILL "$pid" 2> /dev/null || :
        sleep 0.01
    done
fi
phase=$1
shift
exec unshare --mount --propagation private --pid --fork --kill-child -- /bin/sh -c "$phase" adt-phase "$@"
