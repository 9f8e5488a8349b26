#!/bin/sh -e
mkdir -p /opt/wordpress
ln -sfn /usr/share/wordpress /opt/wordpress/public
ln -sfn /opt/wordpress /srv/www

chown -R www-data:www-data /var/lib/wordpress/wp-content/uploads
php -l /etc/wordpress/config-default.php

a2enconf --quiet wordpress
apache2ctl configtest
systemctl daemon-reload
