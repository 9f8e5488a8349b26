//! How a daemon tells its starter that it serves: systemd's protocol, which `host:up --detach` understands too.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// Where the starter listens.
pub const VARIABLE: &str = "NOTIFY_SOCKET";
/// Lines that systemd skips and `host:up --detach` shows.
const NOTICE: &str = "X_ADT_NOTICE=";

/// Serves; `status` is what `systemctl status` shows.
pub fn ready(status: &str, notices: &[String]) {
    let status = [status].into_iter().chain(notices.iter().map(String::as_str)).collect::<Vec<_>>().join("; ");
    let notices: String = notices.iter().map(|notice| format!("{NOTICE}{notice}\n")).collect();
    tell(&format!("READY=1\nSTATUS={status}\n{notices}"));
}

pub fn stopping() {
    tell("STOPPING=1\nSTATUS=finishing the requests that run\n");
}

/// A starter that went away, or none at all, is no reason not to serve.
fn tell(text: &str) {
    let Some(name) = std::env::var_os(VARIABLE) else { return };
    let name = name.to_string_lossy();
    let address = match name.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(name.as_ref()),
    };
    let told = address.and_then(|address| {
        let socket = UnixDatagram::unbound()?;
        // Nor is one that does not listen: its queue would fill up.
        socket.set_nonblocking(true)?;
        socket.send_to_addr(text.as_bytes(), &address)
    });
    if let Err(error) = told {
        tracing::warn!(%error, "whoever started adt was not told that it serves");
    }
}

/// The starter's side. The kernel chooses the name, and takes it away with the socket.
pub struct Ear {
    socket: UnixDatagram,
    pub name: String,
}

impl Ear {
    pub fn new() -> std::io::Result<Self> {
        // Bound to an empty name, a socket gets one that nobody has.
        let unnamed = rustix::net::SocketAddrUnix::new_unnamed();
        let socket = UnixDatagram::unbound()?;
        rustix::net::bind(&socket, &unnamed)?;
        let name = socket.local_addr()?;
        let name = name.as_abstract_name().ok_or(std::io::ErrorKind::AddrNotAvailable)?;
        let name = format!("@{}", String::from_utf8_lossy(name));
        Ok(Self { socket, name })
    }

    /// What a daemon that serves now has to say; `None` when it said nothing for this long.
    pub fn ready(&self, patience: Duration) -> std::io::Result<Option<Vec<String>>> {
        self.socket.set_read_timeout(Some(patience))?;
        let mut buffer = [0; 16 << 10];
        let length = match self.socket.recv(&mut buffer) {
            Ok(length) => length,
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::Interrupted) => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        let notices = text.lines().filter_map(|line| line.strip_prefix(NOTICE)).map(str::to_owned).collect();
        Ok(text.lines().any(|line| line == "READY=1").then_some(notices))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_ears_have_two_names_and_hear_what_is_sent() {
        let (one, other) = (Ear::new().unwrap(), Ear::new().unwrap());
        assert_ne!(one.name, other.name);
        let address = SocketAddr::from_abstract_name(&one.name[1..]).unwrap();
        let mouth = UnixDatagram::unbound().unwrap();
        mouth.send_to_addr(b"STATUS=soon", &address).unwrap();
        assert_eq!(one.ready(Duration::from_secs(5)).unwrap(), None);
        mouth.send_to_addr(b"READY=1\nX_ADT_NOTICE=a b\n", &address).unwrap();
        assert_eq!(one.ready(Duration::from_secs(5)).unwrap(), Some(vec!["a b".to_owned()]));
        assert_eq!(other.ready(Duration::from_millis(1)).unwrap(), None);
    }
}
