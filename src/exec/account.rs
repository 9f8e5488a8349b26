//! A user of this host with all of their groups: whose rights a program gets, or a thread of ours while it works on files that
//! this user controls.
//!
//! A folder of theirs can be another one by the time that it is opened, however carefully a path was looked at before: they may
//! put a link anywhere in it at any moment. So root asks the kernel as them. Then whatever a path leads to, they could have read
//! or written it themselves.
//!
//! Not chosen: a process for each look (each takes a millisecond, and a definition has hundreds of files), or refusing links
//! (a folder above may be one, by right).

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::process::{Gid, Uid, getgroups};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use super::people;

#[derive(Debug, Clone)]
pub struct Account {
    pub user: u32,
    pub group: u32,
    /// `None` where the groups are known from the start.
    name: Option<String>,
    /// Asked for when somebody first needs them, which few do: a directory of the company takes its time.
    groups: OnceLock<Vec<u32>>,
}

impl PartialEq for Account {
    fn eq(&self, other: &Self) -> bool {
        (self.user, self.group, self.groups()) == (other.user, other.group, other.groups())
    }
}

impl Eq for Account {}

impl Account {
    /// One about whom nothing else is known.
    pub fn bare(user: u32, group: u32) -> Self {
        Self::with(user, group, vec![group])
    }

    /// With these groups, the first one included.
    pub fn with(user: u32, group: u32, groups: Vec<u32>) -> Self {
        Self { user, group, name: None, groups: groups.into() }
    }

    /// With the groups that this host gives to the name.
    pub fn named(name: &str, user: u32, group: u32) -> Self {
        Self { user, group, name: Some(name.to_owned()), groups: OnceLock::new() }
    }

    /// All of them, the first one included.
    fn groups(&self) -> &[u32] {
        let ask = || self.name.as_ref().and_then(|name| people::groups(name, self.group).ok());
        self.groups.get_or_init(|| ask().unwrap_or_else(|| vec![self.group]))
    }

    /// The one with this id; none that only files know still has its rights on these.
    pub fn of(user: u32) -> Self {
        let known = people::user(user).ok().flatten();
        known.map_or_else(|| Self::bare(user, user), |known| Self::named(&known.name, user, known.group))
    }

    /// The one whom a folder belongs to; `None` for root, and for what is no folder.
    pub fn owner_of(folder: &Path) -> Option<Self> {
        let meta = std::fs::symlink_metadata(folder).ok().filter(|meta| meta.is_dir() && meta.uid() != 0)?;
        Some(Self::of(meta.uid()))
    }

    /// Does `work` with no right on any file but this user's, on this thread and on those that it starts. Programs that it
    /// starts have ours again.
    pub fn on_files<T>(&self, work: impl FnOnce() -> T) -> T {
        let _rights = Rights::take(self);
        work()
    }

    /// What turns a child that is about to become a program into one of theirs, for good. It does nothing but system calls.
    pub(super) fn entering(&self) -> impl Fn() -> std::io::Result<()> + Send + Sync + use<> {
        let (user, group, groups) = (Uid::from_raw(self.user), Gid::from_raw(self.group), self.gids());
        move || {
            set_thread_groups(&groups)?;
            set_thread_res_gid(group, group, group)?;
            Ok(set_thread_res_uid(user, user, user)?)
        }
    }

    fn gids(&self) -> Vec<Gid> {
        self.groups().iter().map(|group| Gid::from_raw(*group)).collect()
    }
}

/// The same for one whom it may not be, e.g. because root itself asks.
pub fn on_files_of<T>(account: Option<&Account>, work: impl FnOnce() -> T) -> T {
    match account {
        Some(account) => account.on_files(work),
        None => work(),
    }
}

/// A path of this host, and whose rights count for what it leads to; without anybody's our own.
#[derive(Debug, Clone, Copy)]
pub struct HostPath<'a> {
    pub path: &'a Path,
    pub person: Option<&'a Account>,
}

impl<'a, P: AsRef<Path> + ?Sized> From<&'a P> for HostPath<'a> {
    fn from(path: &'a P) -> Self {
        Self { path: path.as_ref(), person: None }
    }
}

impl HostPath<'_> {
    /// Does `work`, which is about this path, with those rights.
    pub fn with_rights<T>(&self, work: impl FnOnce(&Path) -> T) -> T {
        on_files_of(self.person, || work(self.path))
    }
}

/// What a thread had before; it has that again when this is dropped.
struct Rights {
    user: u32,
    group: u32,
    groups: Vec<Gid>,
}

impl Rights {
    /// A thread that kept root's rights would do to files what their user could not: it must not go on.
    fn take(account: &Account) -> Self {
        let groups = getgroups().expect("a process may always know its own groups");
        set_thread_groups(&account.gids()).expect("adt works as root, which may have any groups");
        let (user, group) = set_ids(account.user, account.group);
        Self { user, group, groups }
    }
}

impl Drop for Rights {
    fn drop(&mut self) {
        set_ids(self.user, self.group);
        set_thread_groups(&self.groups).expect("it may do so as it did before");
    }
}

/// Whose rights on files this thread has; returns whose it had.
fn set_ids(user: u32, group: u32) -> (u32, u32) {
    // SAFETY: these calls take and return plain numbers. The kernel keeps them for each thread, and glibc leaves it at that.
    let (before, now) = unsafe {
        let before = (libc::setfsuid(user), libc::setfsgid(group));
        // Nobody has this id, so the call changes nothing and tells.
        (before, (libc::setfsuid(u32::MAX), libc::setfsgid(u32::MAX)))
    };
    let [user_before, group_before, user_now, group_now] = [before.0, before.1, now.0, now.1].map(i32::cast_unsigned);
    assert_eq!((user_now, group_now), (user, group), "adt works as root, which may have any user's rights on files");
    (user_before, group_before)
}

/// Where a user's own settings are.
pub fn home_of(user: u32) -> Option<PathBuf> {
    people::user(user).ok().flatten().map(|user| user.home)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, chown};

    use super::*;
    use crate::exec::Command;

    const NOBODY: u32 = 65_534;

    fn is_root() -> bool {
        rustix::process::geteuid().is_root()
    }

    /// A file that only root and those of group 4242 may read.
    fn closed(folder: &Path) -> std::path::PathBuf {
        fs::set_permissions(folder, PermissionsExt::from_mode(0o755)).unwrap();
        let file = folder.join("file");
        fs::write(&file, "text").unwrap();
        chown(&file, Some(0), Some(4242)).unwrap();
        fs::set_permissions(&file, PermissionsExt::from_mode(0o640)).unwrap();
        file
    }

    #[test]
    fn a_thread_has_the_rights_of_a_user_and_then_its_own_again() {
        if !is_root() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let file = closed(folder.path());
        let nobody = Account::bare(NOBODY, NOBODY);
        let member = Account::with(NOBODY, NOBODY, vec![NOBODY, 4242]);
        let read = || fs::read(&file).map_err(|error| error.kind());
        assert_eq!(nobody.on_files(read), Err(std::io::ErrorKind::PermissionDenied));
        assert_eq!(member.on_files(read), Ok(b"text".to_vec()), "a group of theirs may");
        let inner = member.on_files(|| (nobody.on_files(read).is_err(), read().is_ok()));
        assert_eq!(inner, (true, true), "one in another ends where that goes on");
        let thread = nobody.on_files(|| std::thread::scope(|scope| scope.spawn(read).join().unwrap()));
        assert!(thread.is_err(), "a thread begins with the rights of the one that starts it");
        let made = folder.path().join("made");
        fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o777)).unwrap();
        member.on_files(|| fs::write(&made, "").unwrap());
        assert_eq!((fs::metadata(&made).unwrap().uid(), fs::metadata(&made).unwrap().gid()), (NOBODY, NOBODY));
        let panicked = std::panic::catch_unwind(|| nobody.on_files(|| panic!("in the middle")));
        assert!(panicked.is_err() && read().is_ok());
    }

    #[test]
    fn a_program_has_the_groups_of_its_user_and_nothing_of_roots() {
        if !is_root() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let file = closed(folder.path());
        let member = Account::with(NOBODY, NOBODY, vec![NOBODY, 4242]);
        let run = |account: &Account| Command::new("cat").arg(&file).account(account.clone()).run();
        assert_eq!(run(&member).unwrap().text(), "text");
        run(&Account::bare(NOBODY, NOBODY)).unwrap_err();
        let ids = Command::new("sh").args(["-c", "id -u; id -g; id -G; grep CapEff /proc/self/status"]).account(member).run();
        assert_eq!(ids.unwrap().text(), "65534\n65534\n65534 4242\nCapEff:\t0000000000000000\n");
    }

    #[test]
    fn users_are_found_with_their_groups() {
        let root = Account::of(0);
        assert!(root.user == 0 && root.groups().contains(&0));
        assert_eq!(Account::of(3_999_999_999), Account::bare(3_999_999_999, 3_999_999_999));
        assert_eq!(Account::named("no such name", 7, 8), Account::bare(7, 8));
    }
}
