<?php
$_SERVER['HTTP_HOST'] = 'localhost';
require '/usr/share/wordpress/wp-load.php';

$admin = get_user_by('login', 'admin') ?: exit("wordpress has no user `admin`\n");
$password = wp_generate_password(20, false);
wp_set_password($password, $admin->ID);
echo $password, "\n";
