//! A machine's console: joined live by the helper, or read from its log.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use super::ffi::Container;
use super::helper::Reply;
use super::terminal::{Relay, Signals};

/// Ctrl-], typed twice.
const ESCAPE: u8 = 0x1d;

/// In the helper: joins the caller's terminal to the console.
pub fn join(container: &Container) -> Result<Reply, String> {
    let (_hold, pty) = container.console().ok_or("the machine's console is not there or in use")?;
    let signals = Signals::watch(true).map_err(|error| error.to_string())?;
    let relay = Relay { pty: &pty, child: None, escape: Some(ESCAPE), signals: &signals };
    relay.run().map(|_| Reply::Done).map_err(|error| error.to_string())
}

/// The last lines of a log without reading all of it.
pub fn tail(path: &Path, lines: usize) -> io::Result<Vec<String>> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let length = file.metadata()?.len();
    let most = (lines as u64).saturating_mul(512).clamp(4096, 4 << 20);
    let from = length.saturating_sub(most);
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    // The first line is cut unless it is the file's first.
    let whole: Vec<&str> = text.lines().skip(usize::from(from > 0)).collect();
    Ok(whole[whole.len().saturating_sub(lines)..].iter().map(|line| line.trim_end_matches('\r').to_owned()).collect())
}

/// What liblxc's log says went wrong: `… ERROR  conf - ../src/lxc/conf.c:lxc_map_ids:3708 - text` → `text`.
pub fn complaints(log: &str) -> Vec<String> {
    let of = |level: &str| -> Vec<String> {
        let lines = log.lines().filter(|line| line.contains(&format!(" {level} ")));
        lines.filter_map(|line| line.splitn(3, " - ").nth(2)).map(str::to_owned).collect()
    };
    let errors = of("ERROR");
    if errors.is_empty() { of("WARN") } else { errors }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_of_a_log() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        assert_eq!(tail(&path, 3).unwrap(), Vec::<String>::new());
        std::fs::write(&path, (0..5000).map(|n| format!("line {n}\r\n")).collect::<String>()).unwrap();
        assert_eq!(tail(&path, 2).unwrap(), ["line 4998", "line 4999"]);
    }

    #[test]
    fn only_what_went_wrong_is_told() {
        let log = "adt m 20261121002118.212 WARN     conf - ../src/lxc/conf.c:x:1 - newuidmap binary is missing\n\
                   adt m 20261121002118.213 ERROR    start - ../src/lxc/start.c:lxc_spawn:1788 - Failed to set up - mapping\n";
        assert_eq!(complaints(log), ["Failed to set up - mapping"]);
        assert_eq!(complaints(log.lines().next().unwrap()), ["newuidmap binary is missing"]);
    }
}
