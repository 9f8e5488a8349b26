#!/bin/sh -e
rm -f /etc/nginx/sites-enabled/default
ln -sf ../sites-available/site /etc/nginx/sites-enabled/site
rm -rf /var/www/html

mkdir /srv/site
ln -sfn /srv/site /srv/www

nginx -q -t
systemctl daemon-reload
systemctl restart nginx
