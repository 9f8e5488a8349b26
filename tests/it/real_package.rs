//! The Debian package on a bare server: installed, updated while an environment runs, removed, and purged with and without data.

use std::path::Path;

use super::adt::Adt;
use super::package::deb;
use super::real_host_machine::{bare_rack, end, give_layers, shell};
use super::servers::installed;

/// All files of the server's own, but for what keeps a record of packages and of what was done.
const FILES: &str = "find / -xdev -not -path '/var/log/*' -not -path '/var/lib/dpkg/*' -not -path '/var/cache/*' \
    -not -path '/var/lib/systemd/*' -not -path '/var/lib/adt*' -not -path '/root/*' -not -path '/home/*' \
    -not -path '/tmp/*' -not -path '/var/tmp/*' | sort";

const TINY: &str = "[platform]\\nname = \"tiny\"\\n[machines.one]\\nbox = \"debian\"\\n";

/// A server on which two versions of the package lie, and a person who is to use it.
fn server() -> Option<Adt> {
    if !installed(&["cargo-deb", "dpkg-deb"]) {
        return None;
    }
    let adt = bare_rack()?;
    give_layers(&adt);
    for (version, name) in [("1-1", "old"), ("2-1", "new")] {
        let deb = deb(version, adt.path());
        adt.run(&format!("env:cp 1 {} node:/root/{name}.deb", Path::new(&deb).display())).ok();
    }
    let node = |script: &str| shell(&adt, "node", script);
    node("systemctl is-system-running --wait").ok().says("running");
    node("useradd --create-home ada && usermod --append --groups users ada").ok();
    node(&format!("mkdir /home/ada/tiny && printf '{TINY}' >/home/ada/tiny/platform.toml && chown -R ada: /home/ada/tiny")).ok();
    Some(adt)
}

#[test]
fn the_package_comes_is_updated_under_a_running_environment_and_goes() {
    let Some(adt) = server() else { return };
    let node = |script: &str| shell(&adt, "node", script);
    // The machine trusts the authority of the host that it is on, which a program that it installs would link, too.
    node("update-ca-certificates").ok();
    let before = node(FILES).ok().stdout;

    node("dpkg -i /root/old.deb").ok();
    node("adt --version && test $(command -v adt) = /usr/bin/adt && adt host:check").ok();
    node("zcat /usr/share/man/man1/adt-env:init.1.gz").ok().says(".SH EXAMPLES");
    node("bash -c '. /usr/share/bash-completion/completions/adt; complete -p adt'").ok().says("_adt_by_spaces");
    node("systemctl is-enabled adt adt-commands adt-environments && systemctl is-active adt-commands adt-environments").ok();
    node("getent group adt && usermod --append --groups adt ada").ok();
    node("su - ada -c 'adt platform:init tiny && adt env:init tiny 1'").ok();
    node("adt host:up --detach && adt host:bind-proxy").ok();

    // An update: the services are the new program's, the environment has not noticed.
    node("adt env:exec tiny 1 one -- systemd-run --quiet --unit=witness sleep infinity").ok();
    let witness = "adt env:exec tiny 1 one -- systemctl show witness --property MainPID,ActiveEnterTimestampMonotonic";
    let services = || -> Vec<u32> {
        let told = node("systemctl show adt adt-commands --property MainPID --value").ok().stdout;
        told.split_whitespace().map(|word| word.parse().expect("a number")).collect()
    };
    let (seen, old) = (node(witness).ok().stdout, services());
    node("dpkg -i /root/new.deb").ok();
    assert_eq!(node(witness).ok().stdout, seen);
    let new = services();
    assert!(new.len() == 2 && new.iter().zip(&old).all(|(new, old)| *new > 0 && new != old), "{old:?}, {new:?}");
    node("su - ada -c 'adt env:list'").ok().says("up");

    // Removed, it takes its hands off the host, and nobody's data.
    node("adt env:exec tiny 1 one -- touch /root/kept").ok();
    node("dpkg -r adt").ok();
    node("! test -e /etc/systemd/system/adt.service && ! grep -x adt /proc/[0-9]*/comm").ok();
    node("systemctl is-system-running && getent group adt | grep ada").ok();
    node("! grep -s adt /etc/resolv.conf && ! ls /usr/local/share/ca-certificates/adt-*-example.test.crt").ok();
    node("dpkg -i /root/new.deb && adt platform:up tiny").ok();
    node("adt env:exec tiny 1 one -- test -e /root/kept").ok();

    // A purge leaves what somebody made, and says so; once nothing is there, it leaves nothing.
    node("dpkg -P adt 2>&1").ok().says("keeps the environments");
    node("dpkg -i /root/new.deb && adt platform:up tiny && adt env:exec tiny 1 one -- test -e /root/kept").ok();
    node("adt platform:destroy tiny --yes").ok();
    node("mkdir -p /etc/adt && echo 'bring_back = true' >/etc/adt/adt.toml && dpkg -P adt").ok();
    assert_eq!(node("ls -A /var/lib/adt; getent group adt").stdout, "");
    let after = node(FILES).ok().stdout;
    let differing = |one: &str, other: &str| -> Vec<String> {
        let other: std::collections::BTreeSet<_> = other.lines().collect();
        one.lines().filter(|line| !other.contains(line)).map(str::to_owned).collect()
    };
    assert_eq!((differing(&after, &before), differing(&before, &after)), (vec![], vec![]));
    end(&adt);
}
