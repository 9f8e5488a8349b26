#!/bin/sh -e
chgrp redis /etc/redis/machine.conf
grep -qx 'include /etc/redis/machine.conf' /etc/redis/redis.conf ||
    printf '\ninclude /etc/redis/machine.conf\n' >> /etc/redis/redis.conf
systemctl restart redis-server
redis-cli ping | grep -qx PONG
