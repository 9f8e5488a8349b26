# Runs one program of a release inside a machine, as the site's user and cut off from what the phase may not have.
#
#   $1 what it is cut off from: `build` keeps the network and writes only into the tree, `deploy` has no network
#   $2 user   $3 tree   $4 program below the tree   $5… services that are reached all the same, as ADDRESS:PORT
#
# Started in mount and process namespaces of its own, so that nothing that happens here is seen outside, and whatever the
# program leaves running ends with it. Lines that begin with the record separator are for adt.
set -eu
kind=$1 user=$2 tree=$3 program=$4
shift 4
desk=/run/adt-phase
say() { printf '\036%s\n' "$*"; }

mkdir -p $desk
mount -t tmpfs -o mode=755 adt-phase $desk
mkdir $desk/bin
: > $desk/refused
chmod 622 $desk/refused

# One program stands in the place of each that is refused, wherever it is called from.
cat > $desk/refuse <<'END'
#!/bin/sh
echo "${0##*/} $*" >> /run/adt-phase/refused
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
    # Unit changes need root, and root could leave the namespace: what is asked for here is done outside, word for word.
    : > $desk/systemctl
    mount --bind /usr/bin/systemctl $desk/systemctl
    mkfifo -m 622 $desk/ask
    mkfifo -m 644 $desk/answer
    : > $desk/turn
    chmod 666 $desk/turn
    cat > $desk/ask-systemctl <<'END'
#!/bin/sh
for word; do
    case $word in
    -*) continue ;;
    start | stop | restart | reload | try-restart | reload-or-restart | try-reload-or-restart)
        exec 9>/run/adt-phase/turn
        flock 9
        printf '%s\n' "$*" > /run/adt-phase/ask
        read -r code < /run/adt-phase/answer
        exit "$code"
        ;;
    *) break ;;
    esac
done
exec /run/adt-phase/systemctl "$@"
END
    chmod 755 $desk/ask-systemctl
    cover systemctl $desk/ask-systemctl
    (
        set -f
        while read -r line < $desk/ask; do
            code=0
            for word in $line; do
                case $word in
                --quiet | -q | --no-block) ;;
                -* | *.target | *[!A-Za-z0-9:_.@-]*)
                    echo "adt passes no \`$word\` to systemctl" >&2
                    code=2
                    ;;
                esac
            done
            # Over the bus: systemd's own socket can't tell who asks from another process namespace.
            if [ $code = 0 ]; then SYSTEMCTL_FORCE_BUS=1 $desk/systemctl $line < /dev/null || code=$?; fi
            echo $code > $desk/answer
        done
    ) &
fi
group=$(id -g "$user")
chown "$user:$group" "$home"

cat > $desk/run <<'END'
cd "$3"
exec setpriv --reuid="$1" --regid="$2" --init-groups --no-new-privs --bounding-set=-all --inh-caps=-all -- "./$4"
END

# With no route but the loopback's, the kernel refuses and counts whatever looks for a way out.
cat > $desk/alone <<'END'
set -eu
user=$1 group=$2 tree=$3 program=$4
shift 4
ip link set lo up
while read -r address; do ip address add "$address" dev lo; done < /run/adt-phase/own
for service; do
    case $service in 127.*) ;; *) ip address replace "${service%:*}/32" dev lo ;; esac
    : > "/run/adt-phase/relay-$service"
    systemd-socket-activate --listen="$service" nsenter --net=/run/adt-phase/net \
        /lib/systemd/systemd-socket-proxyd "$service" > "/run/adt-phase/relay-$service" 2>&1 &
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
sh /run/adt-phase/run "$user" "$group" "$tree" "$program" || code=$?
printf '\036missed %s\n' $(($(missed) - before))
exit $code
END

export HOME="$home" USER="$user" LOGNAME="$user" SHELL=/bin/sh TMPDIR=/tmp LC_ALL=C.UTF-8
export PATH=$desk/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
umask 022
code=0
if ! [ -f "$tree/$program" ]; then
    say absent
elif ! [ -x "$tree/$program" ]; then
    say closed
elif [ "$kind" = build ]; then
    sh $desk/run "$user" "$group" "$tree" "$program" < /dev/null || code=$?
else
    : > $desk/net
    mount --bind /proc/self/ns/net $desk/net
    ip -brief address show scope global | while read -r _ _ addresses; do
        for address in $addresses; do echo "${address%/*}"; done
    done > $desk/own
    unshare --net -- sh $desk/alone "$user" "$group" "$tree" "$program" "$@" < /dev/null || code=$?
fi
while read -r line; do say "refused $line"; done < $desk/refused
say "code $code"
