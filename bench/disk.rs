//! A filesystem that shares blocks between files, made as adt's own pool is: XFS in a file.

use std::fs::File;
use std::path::{Path, PathBuf};

use ::adt::exec::Command;
use rustix::mount::{UnmountFlags, unmount};

use super::{HOME, Result};

pub const PACKAGES: &[(&str, &str)] = &[("mkfs.xfs", "xfsprogs")];

/// Mounted for as long as this lives; what a killed run left is the sweep's.
pub struct Disk {
    pub folder: PathBuf,
    file: PathBuf,
}

impl Disk {
    /// It takes space only as it fills.
    pub fn new(name: &str, gigabytes: u64) -> Result<Self> {
        let disk = Self { folder: Path::new(HOME).join(name), file: Path::new(HOME).join(format!("{name}.xfs")) };
        std::fs::create_dir_all(&disk.folder)?;
        File::create(&disk.file)?.set_len(gigabytes << 30)?;
        Command::new("mkfs.xfs").args(["-q", "-m", "reflink=1"]).arg(&disk.file).run()?;
        Command::new("mount").args(["-t", "xfs", "-o", "loop,discard"]).arg(&disk.file).arg(&disk.folder).run()?;
        Ok(disk)
    }

    /// Bytes that are taken.
    pub fn used(&self) -> Result<u64> {
        let stat = rustix::fs::statvfs(&self.folder)?;
        Ok((stat.f_blocks - stat.f_bfree) * stat.f_frsize)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Whatever still uses it is ended by the sweep, and then it is let go.
        let _ = unmount(&self.folder, UnmountFlags::DETACH);
        let _ = std::fs::remove_file(&self.file);
    }
}
