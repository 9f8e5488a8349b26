<?php
// Read by /usr/share/wordpress/wp-config.php, whatever the name asked for.

// The site's address is the one the visitor used, so that every environment, and a
// production alias too, works without a look into the database.
$host = preg_replace('/[^A-Za-z0-9.:\[\]-]/', '', $_SERVER['HTTP_HOST'] ?? 'localhost');
$https = ($_SERVER['HTTP_X_FORWARDED_PROTO'] ?? '') === 'https' || ($_SERVER['HTTPS'] ?? '') === 'on';
define('WP_HOME', ($https ? 'https://' : 'http://') . $host);
define('WP_SITEURL', WP_HOME);

// The environment's own, from `[sites.www.env]` in platform.toml.
define('DB_HOST', 'db');
define('DB_NAME', 'wordpress');
define('DB_USER', 'wordpress');
define('DB_PASSWORD', (string) getenv('DB_PASSWORD'));
define('DB_CHARSET', 'utf8mb4');

// The keys that sign cookies: both web servers have the same ones, the database none.
foreach (['AUTH', 'SECURE_AUTH', 'LOGGED_IN', 'NONCE'] as $scheme) {
    foreach (['KEY', 'SALT'] as $kind) {
        define("{$scheme}_{$kind}", hash_hmac('sha256', "{$scheme}_{$kind}", (string) getenv('WP_SECRET')));
    }
}

// Code is part of the box and the same on each web server; what one of them
// installed for itself would be missing on the others.
define('DISALLOW_FILE_MODS', true);
// Run by wordpress-cron.timer, so that no visitor waits for it.
define('DISABLE_WP_CRON', true);
