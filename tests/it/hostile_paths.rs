//! What a member tries who bends the way to folders in which root works for them: a platform's folder is its member's, and so are
//! the folders above it.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::PathBuf;

use adt::model::Request;

use super::hostile_member::{ADA, EVA, Town, copy, give, init_news, news, with_site};

/// Eva's platform `news` in `eva/x`, and a folder of root's that she would like to be hers.
fn town() -> Option<(Town, PathBuf, PathBuf)> {
    let town = Town::new()?;
    town.host.define_with_source();
    copy(&town.host.origin(), &town.at("owned"), EVA);
    fs::remove_dir_all(town.host.origin()).unwrap();
    copy(&town.at("owned"), &town.host.origin(), EVA);
    for (name, user) in [("eva", EVA), ("ada", ADA)] {
        fs::set_permissions(town.at(name), PermissionsExt::from_mode(0o755)).unwrap();
        give(&town.at(name).join(".gitconfig"), "[safe]\n\tdirectory = *\n", user);
    }
    fs::create_dir(town.at("eva/x")).unwrap();
    chown(town.at("eva/x"), Some(EVA), Some(EVA)).unwrap();
    let folder = with_site(&town, "eva/x", &town.host.origin());
    let roots = town.at("usr");
    fs::create_dir(&roots).unwrap();
    Some((town, folder, roots))
}

#[test]
fn no_folder_of_roots_becomes_a_members_by_a_bent_way() {
    let Some((town, _, roots)) = town() else { return };
    town.eva().done(init_news("1"));
    let bait = roots.join("news/1");
    fs::create_dir_all(&bait).unwrap();
    fs::rename(town.at("eva/x"), town.at("eva/y")).unwrap();
    symlink(&roots, town.at("eva/x")).unwrap();
    std::os::unix::fs::lchown(town.at("eva/x"), Some(EVA), Some(EVA)).unwrap();
    for process in [town.eva(), town.host.process("env:up")] {
        assert!(process.run(Request::EnvUp { id: news("1"), dry_run: false }).result.is_err());
        assert_eq!(fs::metadata(&bait).unwrap().uid(), 0);
        assert_eq!(fs::read_dir(&bait).unwrap().count(), 0);
    }
}

#[test]
fn no_folder_of_roots_is_emptied_by_a_bent_way() {
    let Some((town, folder, roots)) = town() else { return };
    town.eva().done(init_news("1"));
    let bait = roots.join("www");
    fs::create_dir(&bait).unwrap();
    fs::write(bait.join("passwd"), "root").unwrap();
    fs::rename(folder.join("1"), folder.join("old")).unwrap();
    symlink(&roots, folder.join("1")).unwrap();
    std::os::unix::fs::lchown(folder.join("1"), Some(EVA), Some(EVA)).unwrap();
    let remove = Request::SiteRemove { id: news("1"), site: "www".parse().unwrap(), dry_run: false };
    for request in [remove, Request::EnvDestroy { id: news("1"), dry_run: false }] {
        drop(town.eva().run(request).result);
        assert_eq!(fs::read_to_string(bait.join("passwd")).unwrap(), "root");
        assert_eq!(fs::read_dir(&roots).unwrap().count(), 1);
    }
    let gone = town.host.process("env:list").engine.store.database.environment(&news("1")).unwrap();
    assert!(gone.is_none(), "what is not adt's to remove keeps no environment");
}

#[test]
fn no_program_of_a_planted_checkout_runs_as_its_environments_owner() {
    let Some((town, folder, _)) = town() else { return };
    town.ada().done(init_news("1"));
    assert_eq!(fs::metadata(folder.join("1/www")).unwrap().uid(), ADA);
    // The folder around it is Eva's.
    fs::rename(folder.join("1"), folder.join(".x")).unwrap();
    let ran = town.at("ran");
    fs::create_dir(&ran).unwrap();
    fs::set_permissions(&ran, PermissionsExt::from_mode(0o777)).unwrap();
    let program = town.at("eva/program");
    give(&program, &format!("#!/bin/sh\nid -u >{}/by\n", ran.display()), EVA);
    fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    copy(&folder.join(".x"), &folder.join("1"), EVA);
    fs::set_permissions(folder.join("1"), PermissionsExt::from_mode(0o755)).unwrap();
    let config = folder.join("1/www/.git/config");
    let text = fs::read_to_string(&config).unwrap();
    give(&config, &format!("{text}[core]\n\tfsmonitor = {}\n", program.display()), EVA);
    let requests = [
        Request::SiteList { id: news("1") },
        Request::EnvUp { id: news("1"), dry_run: false },
        Request::EnvDestroy { id: news("1"), dry_run: true },
    ];
    for request in requests {
        for process in [town.eva(), town.ada(), town.host.process("a command")] {
            drop(process.run(request.clone()).result);
            assert!(!ran.join("by").exists(), "{request:?} ran it as {:?}", fs::read_to_string(ran.join("by")));
        }
    }
}
