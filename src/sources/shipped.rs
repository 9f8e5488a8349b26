//! The example platforms that come inside the binary.

use std::collections::BTreeSet;
use std::path::Path;

use rust_embed::Embed;

use super::{Error, Result};

#[derive(Embed)]
#[folder = "platforms"]
struct Platforms;

/// The names of the examples.
pub fn names() -> BTreeSet<String> {
    Platforms::iter().filter_map(|path| path.split_once('/').map(|(name, _)| name.to_owned())).collect()
}

/// Writes an example's files into `folder`, which does not exist yet.
pub fn write(name: &str, folder: &Path) -> Result<()> {
    for path in Platforms::iter() {
        let Some(rest) = path.strip_prefix(name).and_then(|rest| rest.strip_prefix('/')) else { continue };
        let file = Platforms::get(&path).expect("the path is one of the embedded ones");
        let target = folder.join(rest);
        let io = |what| {
            let target = target.clone();
            move |source| Error::Io { what, path: target, source }
        };
        std::fs::create_dir_all(target.parent().expect("a file has a folder")).map_err(io("make the folder of"))?;
        std::fs::write(&target, &file.data).map_err(io("write"))?;
        if file.data.starts_with(b"#!") {
            // Embedding keeps contents only; what begins like a program is one.
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            std::fs::set_permissions(&target, mode).map_err(io("make executable"))?;
        }
    }
    Ok(())
}
