//! An OCI image as one root filesystem: its layers one over the other, whiteouts applied.
//!
//! Read are an image layout (`index.json` and `blobs/`), as a folder or packed, and what `docker save` writes.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::archive::{self, Mode};
use super::{Error, Result, digest};

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Manifest {
    layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    platform: Option<Platform>,
}

#[derive(Deserialize)]
struct Platform {
    architecture: String,
}

/// `manifest.json` of `docker save`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    layers: Vec<PathBuf>,
}

/// Unpacks an image into `rootfs`, which exists and is empty. `scratch` holds the packed layers meanwhile.
pub fn unpack(image: &Path, scratch: &Path, rootfs: &Path) -> Result<()> {
    let layout = if image.is_dir() {
        image.to_owned()
    } else {
        let layout = scratch.join("oci");
        std::fs::create_dir_all(&layout).map_err(Error::io("could not create", &layout))?;
        archive::unpack(image, &layout, Mode::Plain)?;
        layout
    };
    for layer in layers(image, &layout)? {
        archive::unpack(&layer, rootfs, Mode::Layer)?;
    }
    Ok(())
}

/// The image's layer archives, the lowest first.
fn layers(image: &Path, layout: &Path) -> Result<Vec<PathBuf>> {
    if layout.join("index.json").is_file() {
        let mut index: Index = json(image, &layout.join("index.json"))?;
        // An index may point at one index per image, and that at one manifest per architecture.
        for _ in 0..4 {
            let chosen = choose(image, index.manifests)?;
            let path = blob(image, layout, &chosen.digest)?;
            if !chosen.media_type.contains("index") && !chosen.media_type.contains("manifest.list") {
                let manifest: Manifest = json(image, &path)?;
                return manifest.layers.iter().map(|layer| blob(image, layout, &layer.digest)).collect();
            }
            index = json(image, &path)?;
        }
        return Err(bad(image, "index.json", "points at indexes without end"));
    }
    let path = layout.join("manifest.json");
    if !path.is_file() {
        return Err(bad(image, "index.json", "is missing, and `manifest.json` too: this is no image"));
    }
    let saved: Vec<Saved> = json(image, &path)?;
    let saved = saved.into_iter().next().ok_or_else(|| bad(image, "manifest.json", "names no image"))?;
    saved.layers.iter().map(|layer| inside(image, layout, layer)).collect()
}

fn choose(image: &Path, manifests: Vec<Descriptor>) -> Result<Descriptor> {
    let wanted = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let fits = |one: &Descriptor| one.platform.as_ref().is_none_or(|platform| platform.architecture == wanted);
    let chosen = manifests.into_iter().find(fits);
    chosen.ok_or_else(|| bad(image, "index.json", format!("holds no image for {wanted}")))
}

fn blob(image: &Path, layout: &Path, name: &str) -> Result<PathBuf> {
    let hex = name.strip_prefix("sha256:").unwrap_or_default();
    let Ok(wanted) = crate::model::Digest::try_from(hex.to_owned()) else {
        return Err(bad(image, name, "is not named by a SHA-256"));
    };
    let path = inside(image, layout, &Path::new("blobs/sha256").join(hex))?;
    if digest::file(&path)? != wanted {
        return Err(bad(image, name, "is damaged: its content does not match its name"));
    }
    Ok(path)
}

/// The image is a stranger's: its links may not lead to files of the host.
fn inside(image: &Path, layout: &Path, path: &Path) -> Result<PathBuf> {
    let root = layout.canonicalize().map_err(Error::io("could not read", layout))?;
    let real = root.join(path).canonicalize().ok().filter(|real| real.starts_with(&root) && real.is_file());
    real.ok_or_else(|| bad(image, &path.display().to_string(), "is missing"))
}

fn json<T: serde::de::DeserializeOwned>(image: &Path, path: &Path) -> Result<T> {
    let text = std::fs::read(path).map_err(Error::io("could not read", path))?;
    serde_json::from_slice(&text).map_err(|error| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        bad(image, &name, format!("is damaged: {error}"))
    })
}

fn bad(image: &Path, entry: &str, reason: impl Into<String>) -> Error {
    Error::BadArchive { archive: image.to_owned(), entry: entry.to_owned(), reason: reason.into() }
}

#[cfg(test)]
mod tests {
    use super::super::archive::tests::pack;
    use super::*;

    fn paths(root: &Path) -> Vec<String> {
        let all = walkdir::WalkDir::new(root).min_depth(1).sort_by_file_name().into_iter().map(|entry| entry.unwrap());
        all.filter(|entry| !entry.file_type().is_dir())
            .map(|entry| entry.path().strip_prefix(root).unwrap().display().to_string())
            .collect()
    }

    #[test]
    fn layers_add_replace_and_take_away() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (folder.path().join("one.tar"), folder.path().join("two.tar"));
        pack(&one, &[("a", "1"), ("b", "1"), ("d/x", "1"), ("d/y", "1"), ("e/z", "1"), ("keep", "1")]);
        pack(
            &two,
            &[(".wh.a", ""), ("b/", ""), ("b/c", "2"), ("d/new", "2"), ("d/.wh..wh..opq", ""), (".wh.e", ""), ("n/.wh.x", "")],
        );
        std::fs::write(folder.path().join("manifest.json"), r#"[{"Config": "c", "Layers": ["one.tar", "two.tar"]}]"#).unwrap();
        let rootfs = tempfile::tempdir().unwrap();
        unpack(folder.path(), folder.path(), rootfs.path()).unwrap();
        assert_eq!(paths(rootfs.path()), ["b/c", "d/new", "keep"]);
    }

    #[test]
    fn a_layout_is_checked_against_its_digests() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = folder.path().join("blobs/sha256");
        std::fs::create_dir_all(&blobs).unwrap();
        let put = |from: &Path| {
            let digest = digest::file(from).unwrap();
            std::fs::copy(from, blobs.join(digest.as_str())).unwrap();
            digest
        };
        let scratch = tempfile::tempdir().unwrap();
        let file = scratch.path().join("x");
        pack(&file, &[("hello", "1")]);
        let layer = put(&file);
        std::fs::write(&file, format!(r#"{{"layers": [{{"digest": "sha256:{layer}"}}]}}"#)).unwrap();
        let manifest = put(&file);
        let index = format!(r#"{{"manifests": [{{"digest": "sha256:{manifest}"}}]}}"#);
        std::fs::write(folder.path().join("index.json"), index).unwrap();
        let rootfs = tempfile::tempdir().unwrap();
        unpack(folder.path(), scratch.path(), rootfs.path()).unwrap();
        assert_eq!(paths(rootfs.path()), ["hello"]);
        std::fs::write(blobs.join(layer.as_str()), "changed").unwrap();
        let error = unpack(folder.path(), scratch.path(), rootfs.path()).unwrap_err();
        assert!(error.to_string().contains("is damaged"), "{error}");
        let error = unpack(scratch.path(), scratch.path(), rootfs.path()).unwrap_err();
        assert!(error.to_string().contains("this is no image"), "{error}");
    }
}
