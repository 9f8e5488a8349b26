# Runs one program of a release inside a machine, as the site's user and cut off from what the phase may not have.
#
#   $1 what it is cut off from: `build` keeps the network and writes only into the tree, `deploy` has no network
#   $2 user   $3 tree   $4 program below the tree   $5 the units that it may have changed, as `a.service b@.service`
#   $6… services that are reached all the same, as ADDRESS:PORT
#
# Started in mount and process namespaces of its own, so that nothing that happens here is seen outside, and whatever the
# program leaves running ends with it. The variables `ADT_PHASE_0` and on each hold one `NAME=VALUE` for the program: its own
# files may be named there (`LD_LIBRARY_PATH`), so only what runs as the site's user ever takes them for variables.
set -eu

# Standard output belongs to what adt believes: this shell and `alone` below write there, through `say`. Whatever else runs,
# the program first of all, prints to standard error and has no descriptor of the other.
exec 3>&1 1>&2
# So short that no reader takes the rest of one line for another.
say() { printf '%.1000s\n' "$*" >&3; }

kind=$1 user=$2 tree=$3 program=$4 units=$5
shift 5
desk=/run/adt-phase
group=$(id -g "$user")
if [ "$(id -u "$user")" = 0 ]; then
    echo "adt runs nothing of a release as \`$user\`, which is root"
    exit 125
fi

# The machine's own /proc is still there: who comes next finds us by the number that the machine knows, see `phase_start.sh`.
enrol() {
    read -r stat < /proc/self/stat
    pid=${stat%% *}
    set -- ${stat##*) }
    echo "$pid ${20}"
}
enrol > /run/adt-phase.init
mount -t proc -o nosuid,nodev,noexec proc /proc

mkdir -p $desk
mount -t tmpfs -o mode=755 adt-phase $desk
mkdir $desk/bin
# What the program's side says or wants: whoever it is may add a line, and nobody but us reads or takes one away.
mkfifo $desk/tell
chown "root:$group" $desk/tell
chmod 620 $desk/tell

# One program stands in the place of each that is refused, wherever it is called from.
cat > $desk/refuse <<'END'
#!/bin/sh
echo "refused ${0##*/} $*" > /run/adt-phase/tell
echo "adt refuses \`${0##*/}\` here" >&2
exit 126
END
chmod 755 $desk/refuse
cover() {
    ln -s "$2" "$desk/bin/$1"
    for folder in /usr/local/sbin /usr/local/bin /usr/sbin /usr/bin /snap/bin; do
        if [ -f "$folder/$1" ]; then mount --bind "$2" "$folder/$1"; fi
    done
}
for name in apt apt-get aptitude apt-key add-apt-repository dpkg dpkg-deb snap yum dnf rpm zypper pacman apk microdnf flatpak \
    sudo sudoedit su doas pkexec runuser; do
    cover $name $desk/refuse
done

home=$desk/home
if [ "$kind" = build ]; then
    # A home for caches that may become large, so not in memory.
    home=/var/lib/adt-phase/home
    mkdir -p "$home" /var/lib/adt-phase/tmp
    for folder in /var/lib/adt-phase/tmp "$home" "$tree"; do mount --bind "$folder" "$folder"; done
    for folder in /tmp /var/tmp; do mount --bind /var/lib/adt-phase/tmp "$folder"; done
    chmod 1777 /var/lib/adt-phase/tmp
    mount -o remount,bind,ro /
else
    mkdir "$home"
    : > $desk/systemctl
    mount --bind /usr/bin/systemctl $desk/systemctl
    mkfifo -m 644 $desk/answer
    # Held by one who asks, so that each hears the answer to its own question. Nobody can write to it.
    : > $desk/turn
    cat > $desk/ask-systemctl <<'END'
#!/bin/sh
for word; do
    case $word in
    -*) continue ;;
    start | stop | restart | reload | try-restart | reload-or-restart | try-reload-or-restart)
        exec 9< /run/adt-phase/turn
        flock 9
        printf 'ask %s %s\n' "$$" "$*" > /run/adt-phase/tell
        while read -r asked code; do
            if [ "$asked" = "$$" ]; then exit "$code"; fi
        done < /run/adt-phase/answer
        exit 1
        ;;
    *) break ;;
    esac
done
exec /run/adt-phase/systemctl "$@"
END
    chmod 755 $desk/ask-systemctl
    cover systemctl $desk/ask-systemctl
    # Also to be read here, so that neither side waits for the other to come.
    exec 4<> $desk/answer
fi
chown "$user:$group" "$home"

# The unit that is meant by a word, if it is one of those that may be changed. What is printed is ours, not the asker's.
meant() {
    for unit in $units; do
        case $unit in
        *@.*)
            name=${unit%%@*} type=${unit##*@.}
            case $1 in "$name@"?*) instance=${1#"$name@"} ;; *) continue ;; esac
            instance=${instance%".$type"}
            case $instance in
            '' | *[!A-Za-z0-9:_.-]*) continue ;;
            *.service | *.socket | *.target | *.timer | *.path | *.mount | *.automount | *.swap | *.device | *.slice | *.scope)
                continue
                ;;
            esac
            echo "$name@$instance.$type"
            return
            ;;
        esac
        if [ "$1" = "$unit" ] || [ "$1.service" = "$unit" ]; then
            echo "$unit"
            return
        fi
    done
    return 1
}

# Unit changes need root, and root could leave any namespace, so it is not given out: a change is asked for. The asker's words
# only choose among the verbs, options and units that are written down on this side; none of them is passed on.
change() {
    verb='' options='' chosen=''
    for word; do
        case $verb:$word in
        *:--quiet | *:-q) options="$options --quiet" ;;
        *:--no-block) options="$options --no-block" ;;
        :start) verb=start ;;
        :stop) verb=stop ;;
        :restart) verb=restart ;;
        :reload) verb=reload ;;
        :try-restart) verb=try-restart ;;
        :reload-or-restart) verb=reload-or-restart ;;
        :try-reload-or-restart) verb=try-reload-or-restart ;;
        :*)
            say "refused systemctl $*"
            return 126
            ;;
        *)
            if ! unit=$(meant "$word"); then
                echo "adt does not $verb \`$word\` for this site"
                say "foreign systemctl $*"
                return 126
            fi
            chosen="$chosen $unit"
            ;;
        esac
    done
    if [ -z "$chosen" ]; then return 1; fi
    # Over the bus: systemd's own socket can't tell who asks from another process namespace.
    SYSTEMCTL_FORCE_BUS=1 $desk/systemctl $options "$verb" -- $chosen < /dev/null 3>&- 4>&-
}

# Ends when nobody is left who could tell it something.
serve() {
    trap '' TERM
    set -f
    while read -r word rest; do
        case $word in
        refused) say "refused $rest" ;;
        ask)
            if [ "$kind" = build ]; then continue; fi
            code=0
            change ${rest#* } || code=$?
            echo "${rest%% *} $code" >&4
            ;;
        esac
    done
}
serve < $desk/tell &
server=$!

# To all that the program has started here, wherever it hid: the kernel finds them by their user.
cat > $desk/signal <<'END'
setpriv --reuid="$2" --clear-groups --no-new-privs -- /bin/sh -c 'kill -s "$1" -- -1' sh "$1" 2> /dev/null || :
END

# Who is told to end is this group. The program may tidy up, so all of its processes hear it; these shells wait for them.
trap : TERM
(
    trap 'sh $desk/signal TERM "$user"' TERM
    while :; do
        sleep 1000000 3>&- &
        wait $! || :
    done
) 4>&- &
exec 5> $desk/tell

cat > $desk/run <<'END'
cd "$3"
exec 3>&- 4>&- 5>&-
exec setpriv --reuid="$1" --regid="$2" --init-groups --no-new-privs --bounding-set=-all --inh-caps=-all -- \
    /bin/sh /run/adt-phase/begin "$@"
END
# As the site's user from here on.
cat > $desk/begin <<'END'
adt_number=0
while eval "adt_word=\${ADT_PHASE_$adt_number-}" && [ "$adt_word" ]; do
    export "$adt_word"
    unset "ADT_PHASE_$adt_number"
    adt_number=$((adt_number + 1))
done
export HOME="$5" USER="$1" LOGNAME="$1" SHELL=/bin/sh TMPDIR=/tmp LC_ALL=C.UTF-8
export PATH=/run/adt-phase/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
unset adt_number adt_word
exec "./$4"
END

# With no route but the loopback's, the kernel refuses and counts whatever looks for a way out.
cat > $desk/alone <<'END'
set -eu
user=$1 group=$2 tree=$3 program=$4 home=$5
shift 5
# Goes on until the program has ended; what is started here hears it as usual.
trap : TERM
ip link set lo up
while read -r address; do ip address add "$address" dev lo; done < /run/adt-phase/own
for service; do
    case $service in 127.*) ;; *) ip address replace "${service%:*}/32" dev lo ;; esac
    : > "/run/adt-phase/relay-$service"
    systemd-socket-activate --listen="$service" nsenter --net=/run/adt-phase/net \
        /lib/systemd/systemd-socket-proxyd "$service" > "/run/adt-phase/relay-$service" 2>&1 3>&- &
done
for service; do
    tries=0
    until grep -q Listening "/run/adt-phase/relay-$service"; do
        tries=$((tries + 1))
        if [ $tries = 1000 ]; then
            cat "/run/adt-phase/relay-$service"
            exit 125
        fi
        sleep 0.005
    done
done
missed() {
    names='' sum=0
    while read -r line; do
        case $line in Ip:*) if [ "$names" ]; then values=$line; else names=$line; fi ;; esac
    done < /proc/net/snmp
    set -- $values
    for name in $names; do
        if [ "$name" = OutNoRoutes ]; then break; fi
        shift
    done
    sum=$1
    while read -r name value; do
        if [ "$name" = Ip6OutNoRoutes ]; then sum=$((sum + value)); fi
    done < /proc/net/snmp6
    echo "$sum"
}
before=$(missed) code=0
sh /run/adt-phase/run "$user" "$group" "$tree" "$program" "$home" || code=$?
sh /run/adt-phase/signal KILL "$user"
printf 'missed %s\n' $(($(missed) - before)) >&3
exit $code
END

code=0
if ! [ -f "$tree/$program" ]; then
    say absent
    exit 0
elif ! [ -x "$tree/$program" ]; then
    say closed
    exit 0
elif [ "$kind" = build ]; then
    sh $desk/run "$user" "$group" "$tree" "$program" "$home" < /dev/null || code=$?
else
    : > $desk/net
    mount --bind /proc/self/ns/net $desk/net
    ip -brief address show scope global | while read -r _ _ addresses; do
        for address in $addresses; do echo "${address%/*}"; done
    done > $desk/own
    unshare --net -- sh $desk/alone "$user" "$group" "$tree" "$program" "$home" "$@" < /dev/null 4>&- 5>&- || code=$?
fi
# The verdict is given when nobody is left to add to it.
sh $desk/signal KILL "$user"
exec 5>&-
wait $server
say "code $code"
