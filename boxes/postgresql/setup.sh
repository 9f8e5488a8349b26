#!/bin/sh -e
version=$(basename /usr/lib/postgresql/*)

# The package made a cluster in the locale of whoever installed it. This one is UTF-8
# whatever that was, and has WAL files of 1 MB: each machine copies the one it writes to.
pg_dropcluster --stop "$version" main
pg_createcluster --locale C.UTF-8 --encoding UTF8 "$version" main -- \
    --auth-local peer --auth-host scram-sha-256 --wal-segsize 1

cat > "/etc/postgresql/$version/main/conf.d/machine.conf" <<CONF
listen_addresses = '*'
password_encryption = 'scram-sha-256'
# Encryption ends at the proxy; the package's certificate would be the same in every machine.
ssl = off
shared_buffers = $ADT_VAR_SHARED_BUFFERS
min_wal_size = 8MB
max_wal_size = 256MB
timezone = 'UTC'
log_timezone = 'UTC'
CONF

cat >> "/etc/postgresql/$version/main/pg_hba.conf" <<'CONF'

# The machines of the same environment.
host    all             all             samenet                 scram-sha-256
CONF

# Debian's unit goes through pg_ctlcluster, which takes seconds to notice a server that
# has been up for long. PostgreSQL tells systemd itself, and its log is the journal then.
mkdir -p "/etc/systemd/system/postgresql@$version-main.service.d"
cat > "/etc/systemd/system/postgresql@$version-main.service.d/machine.conf" <<CONF
[Service]
Type=notify
User=postgres
PIDFile=
ExecStart=
ExecStart=/usr/lib/postgresql/$version/bin/postgres -c config_file=/etc/postgresql/$version/main/postgresql.conf
ExecStop=
ExecReload=
ExecReload=/bin/kill -HUP \$MAINPID
KillMode=mixed
KillSignal=SIGINT
TimeoutStopSec=60s
CONF

systemctl daemon-reload
systemctl start "postgresql@$version-main"
runuser -u postgres -- psql -qAtc 'SHOW server_encoding' | grep -qx UTF8
