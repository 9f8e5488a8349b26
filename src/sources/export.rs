//! The files of a commit, as they were committed: what `.gitattributes` would change or leave out in an archive is not, so
//! that one tree is the same files for everybody.

use std::path::Path;

use super::Result;
use super::mirror::Mirror;
use crate::exec::{Cancel, Limits};

/// git's name for the files of a commit.
pub fn tree(mirror: &Mirror, commit: &str) -> Result<String> {
    let name = format!("{commit}^{{tree}}");
    let output = mirror.git().args(["rev-parse", "--verify", "--quiet", "--end-of-options"]).arg(name).run()?;
    Ok(output.text().trim().to_owned())
}

/// The plain files and links of a commit.
pub fn files(mirror: &Mirror, commit: &str) -> Result<Vec<Vec<u8>>> {
    let output = mirror.git().args(["ls-tree", "-r", "-z", "--name-only", "--full-tree", "--end-of-options", commit]).run()?;
    Ok(output.stdout.split(|byte| *byte == 0).filter(|path| !path.is_empty()).map(<[u8]>::to_vec).collect())
}

/// The commit that an abbreviation stands for; `None` where the mirror has none such.
pub fn commit(mirror: &Mirror, word: &str) -> Result<Option<String>> {
    if word.len() < 4 || !word.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(None);
    }
    let ask = mirror.git().args(["rev-parse", "--verify", "--quiet", "--end-of-options"]).arg(format!("{word}^{{commit}}"));
    let (status, output) = ask.run_any(&mut |_, _| {})?;
    Ok(status.success().then(|| output.text().trim().to_owned()))
}

/// Writes the files of a commit into `folder`, which does not exist yet. Cancelled, it leaves some of them.
pub fn export(mirror: &Mirror, commit: &str, folder: &Path, cancel: &Cancel) -> Result<()> {
    let io = |source| super::Error::Io { what: "make the folder", path: folder.to_owned(), source };
    std::fs::create_dir(folder).map_err(io)?;
    // An index of its own: the mirror is shared, and has none.
    let index = folder.with_extension("index");
    let limits = Limits { cancel: Some(cancel.clone()), ..Limits::default() };
    let git = || mirror.git().env("GIT_INDEX_FILE", &index).limits(limits.clone()).tied();
    git().args(["read-tree", "--end-of-options", commit]).run()?;
    git().arg("--work-tree").arg(folder).args(["checkout-index", "--all"]).cwd(folder).run()?;
    let io = |source| super::Error::Io { what: "remove", path: index.clone(), source };
    std::fs::remove_file(&index).map_err(io)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::Command;

    #[test]
    fn files_come_as_they_were_committed() {
        let home = tempfile::tempdir().unwrap();
        let work = home.path().join("work");
        let origin = super::super::address::Address::new("");
        let mirror = Mirror { address: String::new(), origin, folder: home.path().join("mirror.git") };
        let run = |args: &[&str]| {
            let identity = ["-c", "user.name=Ada", "-c", "user.email=ada@example.test"];
            let command = Command::new("git").arg("-C").arg(home.path()).args(identity).args(args.iter().copied());
            command.run().unwrap().text().trim().to_owned()
        };
        run(&["init", "--quiet", "work"]);
        std::fs::write(work.join(".gitattributes"), "version export-subst\nsecret export-ignore\n").unwrap();
        std::fs::write(work.join("version"), "$Format:%H$\n").unwrap();
        std::fs::write(work.join("secret"), "kept").unwrap();
        std::fs::write(work.join("-rf"), "odd").unwrap();
        run(&["-C", "work", "add", "--all"]);
        run(&["-C", "work", "commit", "--quiet", "-m", "one"]);
        run(&["clone", "--quiet", "--bare", "work", "mirror.git"]);
        let commit = run(&["-C", "work", "rev-parse", "HEAD"]);
        assert_eq!(tree(&mirror, &commit).unwrap(), run(&["-C", "work", "rev-parse", "HEAD^{tree}"]));
        let folder = home.path().join("tree");
        export(&mirror, &commit, &folder, &Cancel::default()).unwrap();
        assert_eq!(std::fs::read_to_string(folder.join("version")).unwrap(), "$Format:%H$\n");
        assert_eq!(std::fs::read_to_string(folder.join("secret")).unwrap(), "kept");
        assert!(folder.join("-rf").exists() && !folder.join(".git").exists());
        assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 3);
        assert!(tree(&mirror, "--help").is_err());
    }
}
