<?php
// Read by /usr/share/wordpress/wp-config.php, whatever the name asked for.

// The site's address is the one the visitor used, so that every environment, and a
// production alias too, works without a look into the database.
$host = preg_replace('/[^A-Za-z0-9.:\[\]-]/', '', $_SERVER['HTTP_HOST'] ?? 'localhost');
$https = ($_SERVER['HTTP_X_FORWARDED_PROTO'] ?? '') === 'https' || ($_SERVER['HTTPS'] ?? '') === 'on';
define('WP_HOME', ($https ? 'https://' : 'http://') . $host);
define('WP_SITEURL', WP_HOME);

// No password: the user exists for private addresses only, and the only private network
// that reaches the database is its environment's. Generated secrets will replace this.
define('DB_HOST', 'db');
define('DB_NAME', 'wordpress');
define('DB_USER', 'wordpress');
define('DB_PASSWORD', '');
define('DB_CHARSET', 'utf8mb4');

// The keys that sign cookies are not here: WordPress then keeps them in the database,
// where both web servers find the same ones. They were made with the database's box.

// Code is part of the box and the same on each web server; what one of them
// installed for itself would be missing on the others.
define('DISALLOW_FILE_MODS', true);
// Run by wordpress-cron.timer, so that no visitor waits for it.
define('DISABLE_WP_CRON', true);
