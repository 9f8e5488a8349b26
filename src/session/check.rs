//! Who may come in, and for whom the engine works then. What it does for them is decided in [`crate::engine::permission`], for every
//! request alike, however it came.

use super::peer::Peer;
use crate::engine::Caller;
use crate::engine::permission::Authority;
use crate::exec::{Account, people};
use crate::model::{Failure, Kind, Request};

/// Its members use every command that does not give or take this power itself.
pub use crate::engine::host::group::NAME as GROUP;

/// Root, and members of the group, as the system says it at this moment.
fn may_come(peer: &Peer) -> Result<(), Failure> {
    if peer.uid == 0 {
        return Ok(());
    }
    let group = people::group(GROUP);
    let group = group.map_err(|error| Failure::new(Kind::Host, format!("look up the group `{GROUP}`")).because(&error))?;
    if group.is_some_and(|group| peer.groups.contains(&group)) {
        return Ok(());
    }
    Err(Failure::new(Kind::Privilege, "work with machines")
        .cause(format!("`{}` is no member of the group `{GROUP}`", peer.name))
        .hint(format!("`sudo usermod -aG {GROUP} {}` makes you one, or run the same command with `sudo`", peer.name)))
}

/// Who has this number, as the system says it at this moment, if he may come in.
pub fn look_up(uid: u32) -> Result<Peer, Failure> {
    let unknown = || Failure::new(Kind::Privilege, "work with machines");
    let peer = Peer::look_up(uid).map_err(|error| unknown().because(&error))?;
    let peer = peer.ok_or_else(|| unknown().cause(format!("this system knows no user {uid}")))?;
    may_come(&peer)?;
    Ok(peer)
}

/// Whether he may still, and with the rights that the engine has of him.
pub fn look_again(known: &Peer) -> Result<(), Failure> {
    if look_up(known.uid)? == *known {
        return Ok(());
    }
    Err(Failure::new(Kind::Privilege, "work with machines")
        .cause(format!("what this system says of `{}` has changed since this session began", known.name))
        .hint("run the same command again: it begins a new session"))
}

/// For whom the engine works. The only place where a session makes one.
pub fn caller(peer: &Peer, command: &str) -> Caller {
    let is_root = peer.uid == 0;
    let account = || Account::with(peer.uid, peer.gid, peer.groups.clone());
    Caller {
        user: peer.name.clone(),
        account: (!is_root).then(account),
        authority: if is_root { Authority::Root } else { Authority::Member },
        home: (!is_root).then(|| peer.home.clone()),
        command: shown(command),
    }
}

/// Others read it in a lock or a log, so it is one line, and no more than that.
fn shown(command: &str) -> String {
    command.chars().filter(|c| !c.is_control()).take(200).collect()
}

/// What is asked of no session, whoever is there. Everything else is the engine's to permit.
pub fn may_ask(request: &Request) -> Result<(), Failure> {
    if matches!(request, Request::EnvCopy { .. }) {
        // Root would read and write files that the person named.
        return Err(Failure::new(Kind::Usage, "copy files").cause("a session copies none of this host; they come and go as data"));
    }
    Ok(())
}

/// Said of what gives and takes the power itself.
pub fn only_root() -> Failure {
    Failure::new(Kind::Privilege, "do this for you")
        .cause("it changes the host itself, which only root may")
        .hint("run the same command with `sudo`")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::request::Copy;

    fn peer(uid: u32, groups: &[u32]) -> Peer {
        Peer { uid, gid: uid, name: "ada".into(), home: "/home/ada".into(), groups: groups.to_vec() }
    }

    #[test]
    fn root_comes_in_and_a_stranger_does_not() {
        may_come(&peer(0, &[])).unwrap();
        let refused = may_come(&peer(1234, &[1234])).unwrap_err();
        assert_eq!(refused.kind, Kind::Privilege);
        assert!(refused.hints[0].contains("usermod -aG adt ada"), "{refused:?}");
    }

    #[test]
    fn nobody_is_who_he_says() {
        let caller = caller(&peer(1234, &[7]), "env:up\u{1b}[2J\n 1161 --user root");
        assert_eq!((caller.user.as_str(), caller.authority), ("ada", Authority::Member));
        assert_eq!(caller.account, Some(Account::with(1234, 1234, vec![7])));
        assert_eq!(caller.command, "env:up[2J 1161 --user root");
        let root = self::caller(&peer(0, &[]), "");
        assert_eq!((root.account, root.authority), (None, Authority::Root));
    }

    #[test]
    fn files_are_never_a_sessions() {
        let id = crate::model::EnvironmentId { platform: "shop".parse().unwrap(), name: "1161".parse().unwrap() };
        let copy = Copy::In { source: "/etc/shadow".into(), target: "/".into() };
        assert!(may_ask(&Request::EnvCopy { id: id.clone(), machine: "web1".parse().unwrap(), copy }).is_err());
        may_ask(&Request::EnvUp { id, dry_run: false }).unwrap();
    }
}
