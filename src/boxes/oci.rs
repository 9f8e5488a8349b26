//! An OCI image as one root filesystem: its layers one over the other, whiteouts applied.
//!
//! Read are an image layout (`index.json` and `blobs/`), as a folder or packed, and what `docker save` writes.

use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::archive::{self, Mode, Room};
use super::compressed::Source;
use super::{Error, Result, inputs};
use crate::model::Digest;

/// As much as registries take of a manifest.
const LONGEST: u64 = 4 << 20;
/// An overlay takes 500 layers, and what builds images 127.
const LAYERS: usize = 500;

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
    config: PathBuf,
    layers: Vec<PathBuf>,
}

#[derive(Deserialize)]
struct Config {
    rootfs: DiffIds,
}

#[derive(Deserialize)]
struct DiffIds {
    /// Each layer's digest before it was packed.
    diff_ids: Vec<String>,
}

/// Unpacks an image into `rootfs`, which exists and is empty. `scratch` holds the packed layers meanwhile.
pub fn unpack(image: &Path, scratch: &Path, rootfs: &Path, room: &mut Room<'_>) -> Result<()> {
    let layout = if image.is_dir() {
        image.to_owned()
    } else {
        let layout = scratch.join("oci");
        std::fs::create_dir_all(&layout).map_err(Error::io("could not create", &layout))?;
        archive::unpack(image, &layout, Mode::Plain, room)?;
        layout
    };
    for layer in layers(image, &layout, room)? {
        archive::unpack(&layer, rootfs, Mode::Layer, room)?;
    }
    Ok(())
}

/// The image's layer archives, the lowest first, each compared with the digest that the image gives it.
fn layers(image: &Path, layout: &Path, room: &Room<'_>) -> Result<Vec<PathBuf>> {
    if layout.join("index.json").is_file() {
        let mut index: Index = json(image, &layout.join("index.json"))?;
        // An index may point at one index per image, and that at one manifest per architecture.
        for _ in 0..4 {
            let chosen = choose(image, index.manifests)?;
            let path = blob(image, layout, &chosen.digest)?;
            if !chosen.media_type.contains("index") && !chosen.media_type.contains("manifest.list") {
                let manifest: Manifest = json(image, &path)?;
                let names = manifest.layers.into_iter().map(|layer| layer.digest).collect();
                return each(image, names, |name| blob(image, layout, name));
            }
            index = json(image, &path)?;
        }
        return Err(Error::bad_archive(image, "index.json", "points at indexes without end"));
    }
    let path = layout.join("manifest.json");
    if !path.is_file() {
        return Err(Error::bad_archive(image, "index.json", "is missing, and `manifest.json` too: this is no image"));
    }
    let saved: Vec<Saved> = json(image, &path)?;
    let saved = saved.into_iter().next().ok_or_else(|| Error::bad_archive(image, "manifest.json", "names no image"))?;
    saved_layers(image, layout, saved, room)
}

/// What `docker save` wrote: the configuration is named by its digest and holds those of the layers.
fn saved_layers(image: &Path, layout: &Path, saved: Saved, room: &Room<'_>) -> Result<Vec<PathBuf>> {
    let path = inside(image, layout, &saved.config)?;
    let name = saved.config.file_name().unwrap_or_default().to_string_lossy();
    let hex = name.trim_start_matches("sha256:").trim_end_matches(".json");
    if inputs::file(&path)? != sha256(image, &name, hex)? {
        return Err(Error::bad_archive(image, &name, "is damaged: its content does not match its name"));
    }
    let Config { rootfs: DiffIds { diff_ids } } = json(image, &path)?;
    if diff_ids.len() != saved.layers.len() {
        return Err(Error::bad_archive(image, &name, "is damaged: it tells of other layers than `manifest.json`"));
    }
    each(image, saved.layers.into_iter().zip(diff_ids).collect(), |(layer, diff_id)| {
        let path = inside(image, layout, layer)?;
        let mut source = Source::open(&path)?;
        let found = inputs::digest(&mut source.reader.by_ref().take(room.bytes())).map_err(Error::io("could not read", &path))?;
        source.finish(&path)?;
        let name = layer.to_string_lossy();
        if found != sha256(image, &name, diff_id.trim_start_matches("sha256:"))? {
            return Err(Error::bad_archive(image, &name, "is damaged: its content does not match its digest"));
        }
        Ok(path)
    })
}

/// One path for each layer. The same layer many times is a way to keep a host busy.
fn each<T>(image: &Path, layers: Vec<T>, path: impl Fn(&T) -> Result<PathBuf>) -> Result<Vec<PathBuf>> {
    if layers.len() > LAYERS {
        return Err(Error::bad_archive(image, "the manifest", format!("names {} layers, more than {LAYERS}", layers.len())));
    }
    layers.iter().map(path).collect()
}

fn sha256(image: &Path, entry: &str, hex: &str) -> Result<Digest> {
    Digest::try_from(hex.to_owned()).map_err(|_| Error::bad_archive(image, entry, "is not named by a SHA-256"))
}

fn choose(image: &Path, manifests: Vec<Descriptor>) -> Result<Descriptor> {
    let wanted = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let fits = |one: &Descriptor| one.platform.as_ref().is_none_or(|platform| platform.architecture == wanted);
    let chosen = manifests.into_iter().find(fits);
    chosen.ok_or_else(|| Error::bad_archive(image, "index.json", format!("holds no image for {wanted}")))
}

fn blob(image: &Path, layout: &Path, name: &str) -> Result<PathBuf> {
    let hex = name.strip_prefix("sha256:").unwrap_or_default();
    let wanted = sha256(image, name, hex)?;
    let path = inside(image, layout, &Path::new("blobs/sha256").join(hex))?;
    if inputs::file(&path)? != wanted {
        return Err(Error::bad_archive(image, name, "is damaged: its content does not match its name"));
    }
    Ok(path)
}

/// The image is a stranger's: its links may not lead to files of the host.
fn inside(image: &Path, layout: &Path, path: &Path) -> Result<PathBuf> {
    let root = layout.canonicalize().map_err(Error::io("could not read", layout))?;
    let real = root.join(path).canonicalize().ok().filter(|real| real.starts_with(&root) && real.is_file());
    real.ok_or_else(|| Error::bad_archive(image, path.display(), "is missing"))
}

fn json<T: serde::de::DeserializeOwned>(image: &Path, path: &Path) -> Result<T> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut text = Vec::new();
    let file = std::fs::File::open(path).map_err(Error::io("could not read", path))?;
    file.take(LONGEST + 1).read_to_end(&mut text).map_err(Error::io("could not read", path))?;
    if text.len() as u64 > LONGEST {
        return Err(Error::bad_archive(image, &name, format!("is longer than {}M", LONGEST >> 20)));
    }
    serde_json::from_slice(&text).map_err(|error| Error::bad_archive(image, &name, format!("is damaged: {error}")))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::super::archive::tests::pack;
    use super::*;

    fn unpack(image: &Path, scratch: &Path, rootfs: &Path) -> Result<()> {
        let cancel = AtomicBool::new(false);
        super::unpack(image, scratch, rootfs, &mut Room::on_disk_of(rootfs, &cancel).unwrap())
    }

    /// What `docker save` writes for these layers, unpacked.
    fn save(folder: &Path, layers: &[&str]) {
        let ids: Vec<_> = layers.iter().map(|layer| format!("sha256:{}", inputs::file(&folder.join(layer)).unwrap())).collect();
        let config = serde_json::json!({ "rootfs": { "type": "layers", "diff_ids": ids } }).to_string();
        std::fs::write(folder.join("config"), &config).unwrap();
        let name = format!("{}.json", inputs::file(&folder.join("config")).unwrap());
        std::fs::rename(folder.join("config"), folder.join(&name)).unwrap();
        let manifest = serde_json::json!([{ "Config": name, "RepoTags": null, "Layers": layers }]);
        std::fs::write(folder.join("manifest.json"), manifest.to_string()).unwrap();
    }

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
        save(folder.path(), &["one.tar", "two.tar"]);
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
            let digest = inputs::file(from).unwrap();
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

    #[test]
    fn a_saved_image_is_checked_against_its_digests() {
        let folder = tempfile::tempdir().unwrap();
        let layer = folder.path().join("one.tar");
        pack(&layer, &[("hello", "1")]);
        save(folder.path(), &["one.tar"]);
        let try_it = || {
            let (scratch, rootfs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            let result = unpack(folder.path(), scratch.path(), rootfs.path());
            result.map(|()| paths(rootfs.path())).map_err(|error| {
                assert_eq!(paths(rootfs.path()), [""; 0], "nothing is unpacked of an image that is not whole");
                error.to_string()
            })
        };
        assert_eq!(try_it().unwrap(), ["hello"]);
        // Compressed, it is the same layer.
        let packed = crate::exec::Command::new("gzip").args(["-c", "-q"]).arg(&layer).run().unwrap().stdout;
        let whole = std::fs::read(&layer).unwrap();
        std::fs::write(&layer, packed).unwrap();
        assert_eq!(try_it().unwrap(), ["hello"]);
        pack(&layer, &[("hello", "2")]);
        assert!(try_it().unwrap_err().contains("does not match its digest"));
        std::fs::write(&layer, whole).unwrap();
        // One more layer than the configuration tells of, and a configuration that somebody wrote anew.
        let manifest = std::fs::read_to_string(folder.path().join("manifest.json")).unwrap();
        let more = manifest.replace("[\"one.tar\"]", "[\"one.tar\", \"one.tar\"]");
        std::fs::write(folder.path().join("manifest.json"), &more).unwrap();
        assert_ne!(more, manifest);
        assert!(try_it().unwrap_err().contains("tells of other layers"));
        std::fs::write(folder.path().join("manifest.json"), &manifest).unwrap();
        let saved: Vec<serde_json::Value> = serde_json::from_str(&manifest).unwrap();
        std::fs::write(folder.path().join(saved[0]["Config"].as_str().unwrap()), r#"{"rootfs": {"diff_ids": []}}"#).unwrap();
        assert!(try_it().unwrap_err().contains("does not match its name"));
    }

    #[test]
    fn a_manifest_has_an_end() {
        let folder = tempfile::tempdir().unwrap();
        let (scratch, rootfs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let try_it = |manifest: &str| {
            std::fs::write(folder.path().join("manifest.json"), manifest).unwrap();
            unpack(folder.path(), scratch.path(), rootfs.path()).unwrap_err().to_string()
        };
        let error = try_it(&format!("[{}", " ".repeat(LONGEST as usize)));
        assert!(error.contains("is longer than 4M"), "{error}");
        let error = try_it(&"[".repeat(1 << 20));
        assert!(error.contains("is damaged"), "{error}");
        pack(&folder.path().join("one.tar"), &[("hello", "1")]);
        save(folder.path(), &vec!["one.tar"; LAYERS + 1]);
        let error = unpack(folder.path(), scratch.path(), rootfs.path()).unwrap_err();
        assert!(error.to_string().contains("names 501 layers"), "{error}");
    }
}
