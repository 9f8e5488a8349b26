<?php
// Run once by setup.sh, as root, through the database's local socket: install.php CODE TITLE
declare(strict_types=1);

[, $code, $title] = $argv;

define('ABSPATH', $code . '/');
define('WP_INSTALLING', true);
define('WP_HTTP_BLOCK_EXTERNAL', true);
define('DB_HOST', 'localhost:/run/mysqld/mysqld.sock');
define('DB_NAME', 'wordpress');
define('DB_USER', 'root');
define('DB_PASSWORD', '');
define('DB_CHARSET', 'utf8mb4');
define('DB_COLLATE', '');
// A placeholder: the web servers go by the name they are asked for.
define('WP_HOME', 'http://localhost');
define('WP_SITEURL', WP_HOME);
$_SERVER += ['HTTP_HOST' => 'localhost', 'REQUEST_URI' => '/', 'SERVER_PROTOCOL' => 'HTTP/1.1', 'REQUEST_METHOD' => 'GET'];
$table_prefix = 'wp_';

/** WordPress's own sends a mail with the administrator's address and name. */
function wp_new_blog_notification(): void
{
}

require ABSPATH . 'wp-settings.php';
require ABSPATH . 'wp-admin/includes/upgrade.php';

if (is_blog_installed()) {
    exit("wordpress is installed already\n");
}

wp_install($title, 'admin', 'admin@localhost.localdomain', false, '', wp_generate_password(40));

// Makes the keys that sign cookies and keeps them in the database.
foreach (['auth', 'secure_auth', 'logged_in', 'nonce'] as $scheme) {
    wp_salt($scheme);
}

update_option('permalink_structure', '/%year%/%monthnum%/%postname%/');
update_option('template', 'twentytwentythree');
update_option('stylesheet', 'twentytwentythree');

$wpdb->last_error === '' || exit(1);
