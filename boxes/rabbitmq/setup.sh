#!/bin/sh -e
# Whatever the package's own start left belongs to the build machine's name.
systemctl stop rabbitmq-server
epmd -kill >/dev/null 2>&1 || true
rm -rf /var/lib/rabbitmq/mnesia /var/log/rabbitmq/*
rabbitmq-plugins enable --offline rabbitmq_management
systemctl start rabbitmq-server
rabbitmqctl -q await_startup
rabbitmqctl -q eval 'node().' | grep -qx rabbit@localhost
