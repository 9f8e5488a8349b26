#!/bin/sh -e
ln -sfn /opt/hello /srv/www
php -l /opt/hello/public/index.php
php -l /opt/hello/guestbook.php
