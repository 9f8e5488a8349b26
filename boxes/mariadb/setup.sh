#!/bin/sh -e
# Started once with the settings of this box, so that the files in the layer have
# the sizes that each machine would otherwise make at its first start.
systemctl daemon-reload
systemctl restart mariadb
mariadb -e 'SELECT VERSION()' >/dev/null
systemctl stop mariadb
rm -f /var/lib/mysql/ib_buffer_pool
systemctl start mariadb
