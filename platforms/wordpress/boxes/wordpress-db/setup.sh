#!/bin/sh -e
mariadb -e 'CREATE DATABASE IF NOT EXISTS wordpress'

# WordPress is PHP, and its installer is too, but a database machine has neither: the
# code is only unpacked, and the interpreter leaves again with everything it brought.
code=$(mktemp -d)
chmod 755 "$code"
apt-get -q update
before=$(dpkg-query -f '${Package}\n' -W)
apt-get -qy --no-install-recommends install php-cli php-mysql
( cd "$code" && apt-get -q download wordpress && dpkg-deb -x wordpress_*.deb . )

php /usr/share/wordpress-install/install.php "$code/usr/share/wordpress" "$ADT_VAR_TITLE"

echo "$before" > "$code/before"
dpkg-query -f '${Package}\n' -W | grep -vxFf "$code/before" | xargs apt-get -qy purge
rm -rf "$code" /etc/php /var/lib/php

# See config-default.php on the web servers for why there is no password.
for network in 10.0.0.0/255.0.0.0 172.16.0.0/255.240.0.0 192.168.0.0/255.255.0.0 100.64.0.0/255.192.0.0 'fd%'; do
    mariadb -e "CREATE USER IF NOT EXISTS 'wordpress'@'$network' IDENTIFIED BY '';
                GRANT ALL PRIVILEGES ON wordpress.* TO 'wordpress'@'$network'"
done
