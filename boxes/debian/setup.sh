#!/bin/sh -e
# The locale that needs no locale package.
printf 'LANG=C.UTF-8\n' > /etc/default/locale

# Root may use the local console without a password: whoever reaches it is already
# root on the host. Nothing here listens for logins from the network.
passwd --delete root >/dev/null

# The default is the graphical target, which drags units no server has.
systemctl --quiet set-default multi-user.target
