//! What somebody may who is not root: come in, ask for something, enter a machine. Whose an environment is, the engine knows.

use super::peer::{self, Peer};
use crate::engine::Caller;
use crate::model::{Failure, Kind, MachineId, Request};

/// Its members use every command that does not give or take this power itself.
pub use crate::engine::host::group::NAME as GROUP;

/// Root, and members of the group, as the system says it at this moment.
pub fn may_come(peer: &Peer) -> Result<(), Failure> {
    if peer.uid == 0 {
        return Ok(());
    }
    let group = peer::group_id(GROUP);
    let group = group.map_err(|error| Failure::new(Kind::Host, format!("look up the group `{GROUP}`")).because(&error))?;
    if group.is_some_and(|group| peer.groups.contains(&group)) {
        return Ok(());
    }
    Err(Failure::new(Kind::Privilege, "work with machines")
        .cause(format!("`{}` is no member of the group `{GROUP}`", peer.name))
        .hint(format!("`sudo usermod -aG {GROUP} {}` makes you one, or run the same command with `sudo`", peer.name)))
}

/// For whom the engine works. The only place where a session makes one.
pub fn caller(peer: &Peer, command: &str) -> Caller {
    let is_root = peer.uid == 0;
    Caller {
        user: peer.name.clone(),
        ids: (!is_root).then_some((peer.uid, peer.gid)),
        home: (!is_root).then(|| peer.home.clone()),
        command: shown(command),
    }
}

/// Others read it in a lock or a log, so it is one line, and no more than that.
fn shown(command: &str) -> String {
    command.chars().filter(|c| !c.is_control()).take(200).collect()
}

/// What is not asked of a session at all, or not by anybody but root.
pub fn may_ask(caller: &Caller, request: &Request) -> Result<(), Failure> {
    if matches!(request, Request::EnvCopy { .. }) {
        // Root would read and write files that the person named.
        return Err(Failure::new(Kind::Usage, "copy files").cause("a session copies none of this host; they come and go as data"));
    }
    let is_roots = match request {
        Request::HostBootstrap(_) => true,
        Request::HostBind(bind) => bind.output.is_some(),
        _ => false,
    };
    if is_roots && caller.ids.is_some() { Err(only_root()) } else { Ok(()) }
}

/// Said of what gives and takes the power itself.
pub fn only_root() -> Failure {
    Failure::new(Kind::Privilege, "do this for you")
        .cause("it changes the host itself, which only root may")
        .hint("run the same command with `sudo`")
}

/// Machines that build boxes are nobody's: what runs in there ends up in everybody's.
pub fn may_enter(caller: &Caller, machine: &MachineId) -> Result<(), Failure> {
    if caller.ids.is_some() && crate::engine::environment::is_workshop(&machine.environment) {
        return Err(Failure::new(Kind::Privilege, format!("enter `{machine}`"))
            .cause("it builds a box, which other people's environments stand on")
            .hint("run the same command with `sudo`"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::request::{Bind, Bootstrap, Copy};

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
        let caller = caller(&peer(1234, &[]), "env:up\u{1b}[2J\n 1161 --user root");
        assert_eq!((caller.user.as_str(), caller.ids), ("ada", Some((1234, 1234))));
        assert_eq!(caller.command, "env:up[2J 1161 --user root");
        assert_eq!(self::caller(&peer(0, &[]), "").ids, None);
    }

    #[test]
    fn what_gives_the_power_is_roots_and_files_are_never_a_sessions() {
        let (root, member) = (caller(&peer(0, &[]), ""), caller(&peer(7, &[]), ""));
        let bootstrap = Bootstrap { remove: false, service: true, pool: None, remove_pool: false, dry_run: false };
        let bind = |output: Option<&str>| Bind { environment: None, with: Vec::new(), output: output.map(Into::into) };
        let id = crate::model::EnvironmentId { platform: "shop".parse().unwrap(), name: "1161".parse().unwrap() };
        let copy = Copy::In { source: "/etc/shadow".into(), target: "/".into() };
        let copy = Request::EnvCopy { id: id.clone(), machine: "web1".parse().unwrap(), copy };
        for (request, roots, members) in [
            (Request::HostBootstrap(bootstrap), true, false),
            (Request::HostBind(bind(Some("/etc"))), true, false),
            (Request::HostBind(bind(None)), true, true),
            (Request::EnvUp { id, dry_run: false }, true, true),
            (copy, false, false),
        ] {
            assert_eq!(may_ask(&root, &request).is_ok(), roots, "{request:?}");
            assert_eq!(may_ask(&member, &request).is_ok(), members, "{request:?}");
        }
    }
}
