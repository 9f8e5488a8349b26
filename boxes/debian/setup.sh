#!/bin/sh -e
# The locale that needs no locale package.
printf 'LANG=C.UTF-8\n' > /etc/default/locale

# Root may use the local console without a password: whoever reaches it is already
# root on the host. Nothing here listens for logins from the network.
passwd --delete root >/dev/null

# The default is the graphical target, which drags units no server has.
systemctl --quiet set-default multi-user.target

# Started by the first one that asks for them, over D-Bus and at its socket, rather than at each boot.
mkdir -p /etc/systemd/system/multi-user.target.wants
for service in systemd-logind dbus; do
    ln -sf /dev/null "/etc/systemd/system/multi-user.target.wants/$service.service"
done

# Programs that look at each boot for disks, a boot loader and a kernel command line to make units of.
mkdir -p /etc/systemd/system-generators
for subject in cryptsetup debug gpt-auto hibernate-resume integritysetup run system-update veritysetup; do
    ln -sf /dev/null "/etc/systemd/system-generators/systemd-$subject-generator"
done

# Made again in here, so that its access list names groups by the numbers they have in here.
rm -rf /var/log/journal
mkdir /var/log/journal
systemd-tmpfiles --create --prefix /var/log/journal
systemctl restart systemd-journald
journalctl --flush
