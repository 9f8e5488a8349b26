#!/bin/sh -e
for sapi in /etc/php/*/*/conf.d; do
    ln -sf /etc/php/conf.d/machine.ini "$sapi/99-machine.ini"
done

a2enmod --quiet rewrite headers expires remoteip
a2enconf --quiet machine
a2disconf --quiet serve-cgi-bin other-vhosts-access-log localized-error-pages
a2dissite --quiet 000-default
a2ensite --quiet site

ln -sfn /usr/share/empty-site /srv/www
rm -rf /var/www/html

apache2ctl configtest
