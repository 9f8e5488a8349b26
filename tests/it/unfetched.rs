//! What a mirror does not have, submodules and large files, is missed at once and not when a page fails.

use adt::model::request::Deploy;
use adt::model::{Event, Request};

use super::fakes::{Host, Ran, id, init};

/// A repository inside the site's own, and a file that is a pointer.
fn add_parts(host: &Host) {
    let origin = host.origin().display().to_string();
    host.git(&["submodule", "--quiet", "add", &origin, "lib"]);
    std::fs::write(host.origin().join(".gitattributes"), "*.zip filter=lfs -text\n").unwrap();
    std::fs::write(host.origin().join("large.zip"), "version https://git-lfs.github.com/spec/v1\n").unwrap();
    // Whoever commits has no LFS here.
    host.git(&["-c", "filter.lfs.clean=cat", "add", "."]);
    host.commit("parts");
}

fn warnings(ran: Ran) -> Vec<String> {
    if let Err(failure) = ran.result {
        panic!("{failure}");
    }
    let texts = ran.events.into_iter().filter_map(|event| match event {
        Event::Warning { text } => Some(text),
        _ => None,
    });
    texts.filter(|text| text.contains("not fetched")).collect()
}

#[test]
fn a_checkout_says_how_to_fetch_it() {
    let home = tempfile::tempdir().unwrap();
    let host = Host::new(home.path());
    host.define_with_source();
    add_parts(&host);
    let text = std::fs::read_to_string(host.shop().join("platform.toml")).unwrap();
    host.define(&text.replace("source =", "branch = \"hotfix\"\nsource ="));
    let init = init("1161");
    let told = warnings(host.process("env:init").run(init.clone()));
    assert_eq!(
        told,
        [
            "www: its submodules are not fetched; run `git submodule update --init` in its folder",
            "www: its large files (LFS) are not fetched; run `git lfs pull` in its folder",
        ]
    );
    let folder = host.shop().join("1161/www");
    assert!(folder.join("lib").read_dir().is_ok_and(|all| all.count() == 0) && folder.join("large.zip").exists());
    assert_eq!(warnings(host.process("env:init").run(init)), Vec::<String>::new(), "it is told once");
}

#[test]
fn a_release_has_what_its_buildpack_downloads() {
    let home = tempfile::tempdir().unwrap();
    let host = Host::new(home.path());
    host.define_with_releases();
    let origin = host.origin();
    std::fs::write(
        origin.join("deploy/buildpack"),
        format!(
            "#!/bin/sh\nset -e\ncp version built\nif [ -f .gitmodules ]; then git clone --quiet {} lib; fi\n",
            origin.display()
        ),
    )
    .unwrap();
    host.commit("one");
    let text = std::fs::read_to_string(host.shop().join("platform.toml")).unwrap();
    host.define(&text.replace("source =", "branch = \"hotfix\"\nsource ="));
    let init = init("1161");
    assert_eq!(warnings(host.process("env:init").run(init)), Vec::<String>::new());
    add_parts(&host);
    let deploy = Request::SiteDeploy { id: id("1161"), site: "www".parse().unwrap(), what: Deploy::default(), dry_run: false };
    let process = host.process("site:deploy");
    assert_eq!(
        warnings(process.run(deploy)),
        [
            "www: its submodules are not fetched; its releases have what `buildpack` downloads",
            "www: its large files (LFS) are not fetched; its releases have what `buildpack` downloads",
        ]
    );
    for machine in ["web1", "web2"] {
        let served = process.root(machine).join("srv/www");
        assert_eq!(host.version(&served).as_deref(), Some("parts"));
        assert_eq!(host.version(&served.join("lib")).as_deref(), Some("parts"));
    }
}
