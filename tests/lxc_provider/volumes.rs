//! Volumes on real machines: whatever happens to a machine, its data is there again.

use adt::model::machine::Volume;

use super::*;

const PATH: &str = "/var/lib/shop";

fn second() -> Digest {
    Digest::from_bytes(&[9; 32])
}

fn third() -> Digest {
    Digest::from_bytes(&[10; 32])
}

impl World {
    /// A layer with files below `/var/lib/shop`, of a user 999.
    fn layer(&self, digest: &Digest, files: &[(&str, &str)]) {
        let root = self.store.path().join("layers").join(digest.as_str()).join("rootfs");
        let folder = root.join("var/lib/shop");
        fs::create_dir_all(&folder).unwrap();
        for parent in ["var", "var/lib"] {
            lchown(root.join(parent), Some(100_000), Some(100_000)).unwrap();
        }
        for (name, text) in files {
            fs::write(folder.join(name), text).unwrap();
            lchown(folder.join(name), Some(100_999), Some(100_999)).unwrap();
        }
        lchown(&folder, Some(100_999), Some(100_999)).unwrap();
        fs::set_permissions(&folder, PermissionsExt::from_mode(0o2750)).unwrap();
    }

    fn with_volume(&self, layers: &[Digest], seed: &[Digest]) -> MachineSpec {
        let volume = Volume { path: PATH.into(), seed: seed.to_vec() };
        MachineSpec { layers: layers.to_vec(), volumes: Some(vec![volume]), ..self.spec("db", 2) }
    }

    fn up(&self, spec: &MachineSpec) {
        self.lxc.create(spec).unwrap();
        self.lxc.start(&spec.id).unwrap();
    }

    /// What is in the folder, as `name=text`.
    fn content(&self, id: &MachineId) -> Vec<String> {
        let script = format!("cd {PATH} && for f in *; do [ ! -f $f ] || echo \"$f=$(cat $f)\"; done");
        self.text(id, &["sh", "-c", &script]).lines().map(str::to_owned).collect()
    }
}

#[test]
fn data_outlives_its_machine_and_the_box_that_it_began_from() {
    let Some(world) = World::new() else { return };
    world.layer(&second(), &[("seed", "old"), ("both", "seed")]);
    world.layer(&third(), &[("seed", "new"), ("more", "new")]);
    let (lxc, id) = (&world.lxc, world.id("db"));
    let spec = world.with_volume(&[digest(), second()], &[digest(), second()]);
    world.up(&spec);
    assert_eq!(world.content(&id), ["both=seed", "seed=old"]);
    assert_eq!(world.text(&id, &["stat", "-c", "%u:%g:%a", PATH]), "999:999:2750");
    world.text(&id, &["sh", "-c", "cd /var/lib/shop; echo mine > both; echo row > table; echo x > /srv/own"]);
    lxc.delete(&id).unwrap();
    // The machine is gone, and its volume is all that is left.
    let seen = lxc.volumes().unwrap().seen(&world.environment).unwrap();
    assert_eq!(seen.iter().map(|volume| (volume.machine.as_str(), volume.path.as_str())).collect::<Vec<_>>(), [("db", PATH)]);
    assert!(lxc.volumes().unwrap().held().unwrap().contains(&second()));

    world.up(&world.with_volume(&[digest(), third()], &[digest(), second()]));
    assert_eq!(world.content(&id), ["both=mine", "seed=old", "table=row"]);
    assert_ne!(world.run(&id, &["test", "-e", "/srv/own"]).code, 0, "a machine's own files are its own");
    // A volume that has begun keeps its beginning, whatever a later definition says.
    lxc.stop(&id, GRACE).unwrap();
    world.up(&world.with_volume(&[digest(), third()], &[digest(), third()]));
    assert_eq!(world.content(&id), ["both=mine", "seed=old", "table=row"]);
    lxc.stop(&id, GRACE).unwrap();
    lxc.create(&MachineSpec { seeded: 1, ..world.with_volume(&[digest(), third()], &[digest(), third()]) }).unwrap();
    lxc.start(&id).unwrap();
    assert_eq!(world.content(&id), ["more=new", "seed=new"], "back at the seed");
    lxc.delete(&id).unwrap();
    lxc.volumes().unwrap().erase(&world.environment).unwrap();
    world.assert_no_trace();
}

#[test]
fn a_machine_from_before_there_were_volumes_loses_nothing() {
    let Some(world) = World::new() else { return };
    world.layer(&second(), &[("seed", "old"), ("gone", "seed")]);
    world.layer(&third(), &[("seed", "new")]);
    let (lxc, id) = (&world.lxc, world.id("db"));
    let before = MachineSpec { layers: vec![digest(), second()], ..world.spec("db", 2) };
    world.up(&before);
    world.text(&id, &["sh", "-c", "cd /var/lib/shop; rm gone; echo row > table; chown 999 table; mkdir sub; echo s > sub/file"]);
    // While it runs it goes on as it is: nothing moves below a mounted overlay.
    let wanted = world.with_volume(&[digest(), second()], &[digest(), second()]);
    lxc.create(&wanted).unwrap();
    assert_eq!(world.content(&id), ["seed=old", "table=row"]);
    world.text(&id, &["sh", "-c", "echo late > /var/lib/shop/late"]);
    assert!(lxc.volumes().unwrap().keep(&wanted).is_err(), "what runs holds its files");
    lxc.stop(&id, GRACE).unwrap();
    lxc.volumes().unwrap().keep(&wanted).unwrap();
    lxc.delete(&id).unwrap();
    world.up(&world.with_volume(&[digest(), third()], &[digest(), second()]));
    assert_eq!(world.content(&id), ["late=late", "seed=old", "table=row"]);
    assert_eq!(world.text(&id, &["cat", "/var/lib/shop/sub/file"]), "s");
    assert_eq!(world.text(&id, &["stat", "-c", "%u", "/var/lib/shop/table"]), "999");
    lxc.delete(&id).unwrap();
    lxc.volumes().unwrap().erase(&world.environment).unwrap();
    world.assert_no_trace();
}

#[test]
fn what_a_machine_removed_before_does_not_come_back_in_its_volume() {
    let Some(world) = World::new() else { return };
    world.layer(&second(), &[("seed", "old")]);
    let (lxc, id) = (&world.lxc, world.id("db"));
    let wanted = world.with_volume(&[digest(), second()], &[digest(), second()]);
    let before = || MachineSpec { layers: vec![digest(), second()], ..world.spec("db", 2) };
    for (script, content) in [
        ("rm -r /var/lib/shop; mkdir /var/lib/shop; echo a > /var/lib/shop/anew", vec!["anew=a"]),
        ("rm -r /var/lib/shop", vec![]),
    ] {
        world.up(&before());
        world.text(&id, &["sh", "-c", script]);
        lxc.stop(&id, GRACE).unwrap();
        world.up(&wanted);
        assert_eq!(world.content(&id), content, "{script}");
        lxc.delete(&id).unwrap();
        lxc.volumes().unwrap().erase(&world.environment).unwrap();
    }
    // A link in its place would lead the data elsewhere: said, and nothing is moved.
    world.up(&before());
    world.text(&id, &["sh", "-c", "mv /var/lib/shop /srv/shop; ln -s /srv/shop /var/lib/shop"]);
    lxc.stop(&id, GRACE).unwrap();
    let error = lxc.create(&wanted).unwrap_err();
    let told = format!("{error}: {}", std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default());
    assert!(told.contains("`/var/lib/shop` is a link or a file"), "{told}");
    assert!(world.folder(&id).join("upper/srv/shop/seed").exists());
}

#[test]
fn a_takeover_that_was_cut_off_goes_on() {
    let Some(world) = World::new() else { return };
    world.layer(&second(), &[("seed", "old")]);
    let (lxc, id) = (&world.lxc, world.id("db"));
    let wanted = world.with_volume(&[digest(), second()], &[digest(), second()]);
    let own = world.folder(&id).join("upper/var/lib/shop");
    let volumes = world.store.path().join("machines/shop/1161/.volumes/db");
    for moved in [false, true] {
        world.up(&MachineSpec { layers: vec![digest(), second()], ..world.spec("db", 2) });
        world.text(&id, &["sh", "-c", "echo row > /var/lib/shop/table"]);
        lxc.stop(&id, GRACE).unwrap();
        lxc.create(&wanted).unwrap();
        // As a kill leaves it before the last rename, and before the data moved.
        let place = fs::read_dir(&volumes).unwrap().next().unwrap().unwrap().path();
        let draft = volumes.join(format!(".{}", place.file_name().unwrap().to_str().unwrap()));
        fs::rename(&place, &draft).unwrap();
        if !moved {
            fs::rename(draft.join("upper"), &own).unwrap();
        }
        world.up(&wanted);
        assert_eq!(world.content(&id), ["seed=old", "table=row"], "moved: {moved}");
        lxc.delete(&id).unwrap();
        lxc.volumes().unwrap().erase(&world.environment).unwrap();
    }
    world.assert_no_trace();
}

#[test]
fn another_box_with_other_numbers_for_its_users_owns_the_same_data() {
    let Some(world) = World::new() else { return };
    let (lxc, id) = (&world.lxc, world.id("db"));
    let base = fs::read_to_string(world.store.path().join("layers").join(digest().as_str()).join("rootfs/etc/passwd")).unwrap();
    for (layer, lines) in [
        (second(), "shop:x:999:999::/:/bin/sh\nfirst:x:708:708::/:/bin/sh\n"),
        (third(), "other:x:999:999::/:/bin/sh\nfirst:x:707:707::/:/bin/sh\nshop:x:708:708::/:/bin/sh\n"),
    ] {
        world.layer(&layer, &[("seed", "old")]);
        let etc = world.store.path().join("layers").join(layer.as_str()).join("rootfs/etc");
        fs::create_dir_all(&etc).unwrap();
        fs::write(etc.join("passwd"), format!("{base}{lines}")).unwrap();
        for path in [etc.clone(), etc.join("passwd")] {
            lchown(path, Some(100_000), Some(100_000)).unwrap();
        }
    }
    let owners = || world.text(&id, &["sh", "-c", "cd /var/lib/shop; stat -c '%n %U' *"]);
    world.up(&world.with_volume(&[digest(), second()], &[digest(), second()]));
    world.text(
        &id,
        &["sh", "-c", "cd /var/lib/shop; echo a > mine; chown shop mine; echo b > firsts; chown first firsts; echo c > roots"],
    );
    assert_eq!(owners(), "firsts first\nmine shop\nroots root\nseed shop");
    lxc.delete(&id).unwrap();
    for _ in 0..2 {
        world.up(&world.with_volume(&[digest(), third()], &[digest(), second()]));
        assert_eq!(owners(), "firsts first\nmine shop\nroots root\nseed shop");
        lxc.delete(&id).unwrap();
    }
    // What they write there has the volume's numbers on disk, so the first box finds it as its own again.
    world.up(&world.with_volume(&[digest(), third()], &[digest(), second()]));
    world.text(&id, &["sh", "-c", "cd /var/lib/shop; rm roots; touch late; chown shop late; echo more >> seed"]);
    lxc.delete(&id).unwrap();
    world.up(&world.with_volume(&[digest(), second()], &[digest(), second()]));
    assert_eq!(owners(), "firsts first\nlate shop\nmine shop\nseed shop");
}

#[test]
fn files_for_a_machine_reach_its_volumes() {
    let Some(world) = World::new() else { return };
    world.layer(&second(), &[("seed", "old")]);
    let (lxc, id) = (&world.lxc, world.id("db"));
    lxc.create(&world.with_volume(&[digest(), second()], &[digest(), second()])).unwrap();
    let file = |path: &str| adt::providers::File { path: path.into(), mode: 0o640, group: None, text: path.to_owned().into() };
    lxc.place(&id, &[file("var/lib/shop/conf.d/a"), file("etc/b")], &[]).unwrap();
    lxc.start(&id).unwrap();
    assert_eq!(world.text(&id, &["cat", "/var/lib/shop/conf.d/a", "/etc/b"]), "var/lib/shop/conf.d/aetc/b");
    lxc.stop(&id, GRACE).unwrap();
    lxc.place(&id, &[], &["var/lib/shop/conf.d/a".into()]).unwrap();
    lxc.start(&id).unwrap();
    assert_ne!(world.run(&id, &["test", "-e", "/var/lib/shop/conf.d/a"]).code, 0);
}
