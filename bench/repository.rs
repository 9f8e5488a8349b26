//! Repositories that sites come from, made in one go by `git fast-import`.

use std::io::Write as _;
use std::path::Path;

use ::adt::exec::Command;

use super::Result;

/// What `git fast-import` reads.
#[derive(Default)]
pub struct History(Vec<u8>);

impl History {
    /// A commit on a branch: on top of what this has of it, else of `main`.
    pub fn commit(&mut self, branch: &str, files: impl IntoIterator<Item = (String, Vec<u8>)>) {
        let stream = &mut self.0;
        let mut say = |text: String| stream.extend_from_slice(text.as_bytes());
        say(format!("commit refs/heads/{branch}\ncommitter Ada <ada@example.test> 1700000000 +0000\ndata 0\n"));
        if branch != "main" {
            say("from refs/heads/main\n".to_owned());
        }
        for (path, text) in files {
            let mode = if text.starts_with(b"#!") { "100755" } else { "100644" };
            write!(stream, "M {mode} inline {path}\ndata {}\n", text.len()).expect("memory takes what is written");
            stream.extend_from_slice(&text);
            stream.push(b'\n');
        }
    }

    /// A bare repository with all of it in one pack, as a server has it.
    pub fn make(self, folder: &Path) -> Result<()> {
        let git = || Command::new("git").arg("-C").arg(folder);
        Command::new("git").args(["init", "--quiet", "--bare", "--initial-branch=main"]).arg(folder).run()?;
        git().args(["fast-import", "--quiet"]).stdin(self.0).run()?;
        git().args(["repack", "-a", "-d", "--quiet"]).run()?;
        Ok(())
    }
}

/// So many files of source code's size: 2 kB in the middle, no two alike.
pub fn sources(count: u32) -> impl Iterator<Item = (String, Vec<u8>)> {
    (0..count).map(|number| {
        let lines = 1 + number.wrapping_mul(7919) % 60;
        let text: String =
            (0..lines).map(|line| format!("{:064x}\n", dice((u64::from(number) << 8) | u64::from(line)))).collect();
        (format!("src/{:02}/{:02}/{number}.php", number % 40, number / 40 % 25), text.into_bytes())
    })
}

/// Numbers that compress like text, the same in each run.
fn dice(seed: u64) -> u128 {
    u128::from(seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)
}
