//! Sockets that are listened at, and outlive the process that does: systemd keeps a copy of each and hands it to the next process of
//! the unit. So nobody is turned away in between; who comes meanwhile waits in the kernel's queue.
//!
//! ```text
//! opened ─ keep ─> with systemd, too ─ the process ends, or is killed ─> inherited ─ take ─> listened at again
//!                        │                                                  └─ nobody takes it: settle ─> closed
//!                        └─ close: nobody listens there any more ─> gone everywhere
//! ```
//! What always holds:
//! - A socket that clients still come to is accepted from or closed. One that is only forgotten would take its part of them, since sockets
//!   at one address share who comes (SO_REUSEPORT), and they would wait for ever.
//! - A process that can't serve closes all of it ([`Listeners::give_up`]). When the unit is stopped, or given up because it was killed
//!   too often, systemd drops what it kept. Clients are refused then, as where nothing ever listened, and don't wait unseen.
//! - Without systemd, or with a unit of before that keeps nothing, sockets end with their process.
//!
//! Not chosen: a socket unit, which can't follow addresses that come and go with environments, and whose ports would stay open while
//! adt is stopped on purpose.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::fstat;
use rustix::net::{Shutdown, shutdown};

use super::inherited::inherited;
use super::notify::Starter;
use super::place::Place;

/// Names of other descriptors begin otherwise, and those are not ours to use.
const OURS: &str = "adt-";

#[derive(Debug, Default)]
pub struct Listeners {
    /// Who keeps them.
    systemd: Option<Starter>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    kept: BTreeMap<Place, Vec<Kept>>,
    /// Names of what is closed, that systemd was not told of yet.
    going: Vec<String>,
}

/// A copy of a socket, by which it can be closed for everybody who has one.
#[derive(Debug)]
struct Kept {
    name: String,
    socket: OwnedFd,
    is_used: bool,
    is_stored: bool,
}

impl Listeners {
    /// With those that were listened at by this unit's process before.
    pub fn inherited() -> Self {
        Self::of(Starter::of_environment().filter(Starter::is_systemd), inherited())
    }

    fn of(systemd: Option<Starter>, inherited: Vec<(OwnedFd, String)>) -> Self {
        let mut state = State::default();
        for (socket, name) in inherited {
            match Place::of(&socket).filter(|_| name.starts_with(OURS)) {
                Some(place) => {
                    state.kept.entry(place).or_default().push(Kept { name, socket, is_used: false, is_stored: true });
                }
                None => {
                    tracing::warn!(name = %name.escape_debug(), "systemd handed over what is no listener of adt's; it is closed");
                    state.going.extend(may_be_said(&name).then_some(name));
                }
            }
        }
        Self { systemd, state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether somebody listened there before, and nobody does yet.
    pub fn has(&self, place: Place) -> bool {
        self.state().kept.get(&place).is_some_and(|all| all.iter().any(|one| !one.is_used))
    }

    /// The share of one who will listen there, of as many as are still to come: together they take all.
    pub fn take(&self, place: Place, takers: usize) -> Vec<OwnedFd> {
        let mut state = self.state();
        let unused = state.kept.get_mut(&place).into_iter().flatten().filter(|one| !one.is_used);
        let unused: Vec<_> = unused.collect();
        let share = unused.len().div_ceil(takers.max(1));
        let taken = unused.into_iter().take(share).filter_map(|one| {
            let copy = one.socket.try_clone().ok()?;
            one.is_used = true;
            Some(copy)
        });
        taken.collect()
    }

    /// Lets a socket outlive this process, if it doesn't yet.
    pub fn keep(&self, socket: impl AsFd) {
        let Some(systemd) = &self.systemd else { return };
        let socket = socket.as_fd();
        let copied = || Some((Place::of(socket)?, fstat(socket).ok()?.st_ino, socket.try_clone_to_owned().ok()?));
        let Some((place, inode, copy)) = copied() else { return };
        // No two sockets that are open have one inode.
        let name = format!("{OURS}{place}-{inode}");
        let mut state = self.state();
        let all = state.kept.entry(place).or_default();
        if !all.iter().any(|one| one.name == name) {
            let is_stored = store(systemd, &name, copy.as_fd());
            all.push(Kept { name, socket: copy, is_used: true, is_stored });
        }
    }

    /// Nobody listens there any more, and nobody shall come there.
    pub fn close(&self, place: Place) {
        let mut state = self.state();
        let gone = state.kept.remove(&place).unwrap_or_default();
        state.going.extend(gone.into_iter().map(end));
        self.tell(&mut state);
    }

    /// Closes what was listened at before and is not any more, and tells systemd what it could not take in so far.
    pub fn settle(&self) {
        let mut state = self.state();
        let State { kept, going } = &mut *state;
        for all in kept.values_mut() {
            going.extend(all.extract_if(.., |one| !one.is_used).map(end));
        }
        kept.retain(|_, all| !all.is_empty());
        self.tell(&mut state);
    }

    /// Nothing is listened at any more.
    pub fn give_up(&self) {
        let mut state = self.state();
        let all = std::mem::take(&mut state.kept);
        state.going.extend(all.into_values().flatten().map(end));
        self.tell(&mut state);
    }

    fn tell(&self, state: &mut State) {
        let Some(systemd) = &self.systemd else { return };
        state.going.retain(|name| {
            let told = systemd.tell(&format!("FDSTOREREMOVE=1\nFDNAME={name}\n"), None);
            told.inspect_err(|error| tracing::warn!(%error, "systemd was not told of a closed socket; it is told again")).is_err()
        });
        for one in state.kept.values_mut().flatten().filter(|one| !one.is_stored) {
            one.is_stored = store(systemd, &one.name, one.socket.as_fd());
        }
    }
}

/// Whether systemd was told. If its unit does not let it keep this many, the socket ends with the process, and no answer says so.
fn store(systemd: &Starter, name: &str, socket: BorrowedFd<'_>) -> bool {
    let told = systemd.tell(&format!("FDSTORE=1\nFDNAME={name}\n"), Some(socket));
    told.inspect_err(|error| tracing::warn!(%error, "systemd was not given a socket; it is given it again")).is_ok()
}

/// For everybody who has a copy, at once: systemd closes its own when it hears of it, or sees that nobody can come in.
fn end(gone: Kept) -> String {
    // A socket of UDP without a peer has nothing to shut down; it ends when its last copy is closed.
    let _ = shutdown(&gone.socket, Shutdown::Both);
    gone.name
}

/// Whether a name is one line of systemd's, as its own are.
fn may_be_said(name: &str) -> bool {
    (1..=255).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':')
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, IoSliceMut};
    use std::mem::MaybeUninit;
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::unix::net::UnixDatagram;

    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

    use super::*;

    /// What systemd does with a unit's messages.
    struct Systemd {
        folder: tempfile::TempDir,
        ear: UnixDatagram,
        store: Vec<(OwnedFd, String)>,
    }

    impl Systemd {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let ear = UnixDatagram::bind(folder.path().join("notify")).unwrap();
            ear.set_nonblocking(true).unwrap();
            Self { folder, ear, store: Vec::new() }
        }

        fn starts(&self) -> Listeners {
            let starter = Starter::at(self.folder.path().join("notify").as_os_str()).filter(Starter::is_systemd);
            let copy = |(socket, name): &(OwnedFd, String)| (socket.try_clone().unwrap(), name.clone());
            Listeners::of(Some(starter.unwrap()), self.store.iter().map(copy).collect())
        }

        fn listens(&mut self) {
            let mut text = [0; 1024];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            loop {
                let mut control = RecvAncillaryBuffer::new(&mut space);
                let read = recvmsg(&self.ear, &mut [IoSliceMut::new(&mut text)], &mut control, RecvFlags::CMSG_CLOEXEC);
                let Ok(read) = read else { return };
                let text = String::from_utf8(text[..read.bytes].to_vec()).unwrap();
                let rights = |message| if let RecvAncillaryMessage::ScmRights(fds) = message { Some(fds) } else { None };
                let sockets = control.drain().filter_map(rights).flatten().collect::<Vec<_>>();
                let (what, name) = text.trim_end().split_once("\nFDNAME=").unwrap();
                match what {
                    "FDSTORE=1" => self.store.extend(sockets.into_iter().map(|socket| (socket, name.to_owned()))),
                    "FDSTOREREMOVE=1" => self.store.retain(|(_, known)| known != name),
                    _ => panic!("{text}"),
                }
            }
        }
    }

    #[test]
    fn who_comes_between_two_processes_is_served_by_the_second() {
        let mut systemd = Systemd::new();
        let (first, listener) = (systemd.starts(), TcpListener::bind("127.0.0.1:0").unwrap());
        let address = listener.local_addr().unwrap();
        first.keep(&listener);
        first.keep(&listener);
        drop((first, listener));
        systemd.listens();
        assert_eq!(systemd.store.len(), 1, "one socket is kept once");
        assert!(systemd.store[0].1.starts_with(&format!("adt-tcp-127.0.0.1-{}-", address.port())));

        let client = TcpStream::connect(address).unwrap();
        let second = systemd.starts();
        assert!(second.has(Place::Tcp(address)));
        let taken = second.take(Place::Tcp(address), 1).pop().unwrap();
        assert!(!second.has(Place::Tcp(address)) && second.take(Place::Tcp(address), 1).is_empty());
        let (_, from) = TcpListener::from(taken.try_clone().unwrap()).accept().unwrap();
        assert_eq!(from, client.local_addr().unwrap());
        second.keep(&taken);
        second.settle();
        systemd.listens();
        assert_eq!(systemd.store.len(), 1, "what is used stays as it is");

        second.close(Place::Tcp(address));
        assert_eq!(TcpStream::connect(address).unwrap_err().kind(), ErrorKind::ConnectionRefused, "at once, whoever has a copy");
        systemd.listens();
        assert!(systemd.store.is_empty());
    }

    #[test]
    fn what_nobody_wants_is_closed_and_what_is_no_listener_never_used() {
        let mut systemd = Systemd::new();
        let (listener, socket) = (TcpListener::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        let (address, packets) = (listener.local_addr().unwrap(), socket.local_addr().unwrap());
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let elsewhere = other.local_addr().unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        for (socket, name) in [
            (OwnedFd::from(listener), "adt-old"),
            (OwnedFd::from(socket), "adt-names"),
            (OwnedFd::from(other), "somebody.socket"),
            (OwnedFd::from(file), "adt-file"),
            (OwnedFd::from(std::fs::File::open("/dev/null").unwrap()), "a\nFDSTORE=1"),
            (OwnedFd::from(std::fs::File::open("/dev/null").unwrap()), ""),
        ] {
            systemd.store.push((socket, name.to_owned()));
        }
        let listeners = systemd.starts();
        assert!(
            listeners.has(Place::Tcp(address)) && listeners.has(Place::Udp(packets)) && !listeners.has(Place::Tcp(elsewhere))
        );
        listeners.settle();
        systemd.listens();
        let left: Vec<_> = systemd.store.iter().map(|(_, name)| name.as_str()).collect();
        assert_eq!(left, ["a\nFDSTORE=1", ""], "a name that is none is not said");
        assert_eq!(TcpStream::connect(address).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        drop(listeners);
        UdpSocket::bind(packets).unwrap();
    }

    #[test]
    fn together_all_threads_take_all_there_is() {
        for (there, threads) in [(4, 4), (4, 2), (1, 3), (5, 2), (2, 5)] {
            let mut systemd = Systemd::new();
            let first = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
            let socket = |address: std::net::SocketAddr| {
                let socket =
                    rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::STREAM, None).unwrap();
                rustix::net::sockopt::set_socket_reuseport(&socket, true).unwrap();
                rustix::net::bind(&socket, &address).unwrap();
                rustix::net::listen(&socket, 1).unwrap();
                TcpListener::from(socket)
            };
            let one = socket(first);
            let address = one.local_addr().unwrap();
            systemd.store.push((one.into(), "adt-1".into()));
            systemd.store.extend((1..there).map(|number| (socket(address).into(), format!("adt-{}", number + 1))));
            let listeners = systemd.starts();
            let taken: Vec<_> = (0..threads).map(|index| listeners.take(Place::Tcp(address), threads - index).len()).collect();
            assert_eq!(taken.iter().sum::<usize>(), there, "{there} for {threads}: {taken:?}");
            assert!(taken.iter().max().unwrap() - taken.iter().min().unwrap() <= 1, "{taken:?}");
        }
    }

    #[test]
    fn systemd_hears_later_what_it_could_not_hear_at_once() {
        let mut systemd = Systemd::new();
        let (listeners, listener) = (systemd.starts(), TcpListener::bind("127.0.0.1:0").unwrap());
        let path = systemd.folder.path().join("notify");
        std::fs::rename(&path, path.with_extension("away")).unwrap();
        listeners.keep(&listener);
        std::fs::rename(path.with_extension("away"), &path).unwrap();
        listeners.settle();
        systemd.listens();
        assert_eq!(systemd.store.len(), 1);
        std::fs::rename(&path, path.with_extension("away")).unwrap();
        listeners.give_up();
        assert!(TcpStream::connect(listener.local_addr().unwrap()).is_err());
        std::fs::rename(path.with_extension("away"), &path).unwrap();
        listeners.settle();
        systemd.listens();
        assert!(systemd.store.is_empty());
    }

    #[test]
    fn without_systemd_a_socket_ends_with_its_process() {
        let (listeners, listener) = (Listeners::default(), TcpListener::bind("127.0.0.1:0").unwrap());
        listeners.keep(&listener);
        assert!(listeners.state().kept.is_empty());
        let ear = super::super::notify::Ear::new().unwrap();
        let starter = Starter::at(std::ffi::OsStr::new(&ear.name)).filter(Starter::is_systemd);
        assert!(starter.is_none());
    }
}
