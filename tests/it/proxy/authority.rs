//! Certificates of an authority as those of the internet are: `pebble`, which refuses half of all nonces, looks at the door to the
//! world for its answers, and what it gives is shown there.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::{Duration, Instant};

use adt::acme::{Keeper, Place};
use adt::model::Routes;
use adt::model::edge::Acme;
use adt::proxy::{Config, Ports, Server, World};
use adt::tls::{Certificates, Challenges, Given, Public, system_clock};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

use super::public::{NAME, world_routes};
use super::witness::Witness;
use crate::servers::{free_port, installed};

struct Program(Child);

impl Program {
    fn start(command: &mut Command, log: &Path) -> Self {
        let log = File::create(log).unwrap();
        Self(command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An authority for which every name leads to this host.
struct Pebble {
    directory: String,
    /// Whom to believe: who speaks for it, and what it signs with.
    ca: String,
    log: PathBuf,
    _programs: [Program; 2],
}

impl Pebble {
    fn start(folder: &Path, doors: Ports) -> Self {
        let key = || KeyPair::generate().unwrap();
        let mut authority = CertificateParams::new(Vec::new()).unwrap();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let (own, issuer_key) = (key(), key());
        let root = authority.self_signed(&issuer_key).unwrap().pem();
        let issuer = Issuer::new(authority, issuer_key);
        let leaf = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().signed_by(&own, &issuer).unwrap();
        let path = |name: &str| folder.join(name);
        std::fs::write(path("pebble.pem"), leaf.pem()).unwrap();
        std::fs::write(path("pebble.key"), own.serialize_pem()).unwrap();
        let (asked, managed, names, told) = (free_port(), free_port(), free_port(), free_port());
        let settings = serde_json::json!({"pebble": {
            "listenAddress": format!("127.0.0.1:{asked}"), "managementListenAddress": format!("127.0.0.1:{managed}"),
            "httpPort": doors.http, "tlsPort": doors.https,
            "certificate": path("pebble.pem"), "privateKey": path("pebble.key"),
        }});
        std::fs::write(path("pebble.json"), settings.to_string()).unwrap();
        let at = |port: u16| format!("127.0.0.1:{port}");
        let mut names_for = Command::new("pebble-challtestsrv");
        names_for.args(["-defaultIPv4", "127.0.0.1", "-defaultIPv6", "", "-http01", "", "-https01", "", "-tlsalpn01", ""]);
        names_for.args(["-dns01", &at(names), "-management", &at(told)]);
        let mut pebble = Command::new("pebble");
        pebble.arg("-config").arg(path("pebble.json")).args(["-dnsserver", &at(names)]);
        pebble.env("PEBBLE_VA_NOSLEEP", "1").env("PEBBLE_WFE_NONCEREJECT", "50");
        let log = path("pebble.log");
        let programs = [Program::start(&mut names_for, &path("names.log")), Program::start(&mut pebble, &log)];
        let signs = soon("pebble answers", &log, || {
            let mut curl = Command::new("curl");
            let said =
                curl.args(["-skf", "--noproxy", "*"]).arg(format!("https://127.0.0.1:{managed}/roots/0")).output().unwrap();
            said.status.success().then(|| String::from_utf8(said.stdout).unwrap())
        });
        Self { directory: format!("https://127.0.0.1:{asked}/dir"), ca: format!("{root}{signs}"), log, _programs: programs }
    }

    /// How many certificates it gave.
    fn given(&self) -> usize {
        std::fs::read_to_string(&self.log).unwrap().matches("Issued certificate").count()
    }
}

/// What comes to be within a minute.
#[track_caller]
fn soon<T>(what: &str, log: &Path, mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(found) = look() {
            return found;
        }
        let tries = || walkdir::WalkDir::new(log.with_file_name("tls/acme")).into_iter().flatten();
        let tries = || tries().filter(|file| file.path().extension().is_some_and(|end| end == "json"));
        let told = || tries().map(|file| std::fs::read_to_string(file.path()).unwrap_or_default()).collect::<Vec<_>>();
        assert!(Instant::now() < until, "not so: {what}: {:?}\n{}", told(), std::fs::read_to_string(log).unwrap_or_default());
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn asking(mut routes: Routes, pebble: &Pebble) -> Routes {
    let acme = Acme { directory: pebble.directory.clone(), email: "ops@shop.example".into(), ca: Some(pebble.ca.clone()) };
    routes.platforms[1].environments[0].edge.acme = Some(acme);
    routes
}

#[test]
fn an_authority_of_the_world_gives_a_certificate_and_renews_it_without_a_gap() {
    if !installed(&["pebble", "pebble-challtestsrv", "curl"]) {
        return;
    }
    let (witness, folder) = (Witness::new(), tempfile::tempdir().unwrap());
    let store = folder.path();
    let ports = Ports { http: free_port(), https: free_port() };
    let pebble = Pebble::start(store, ports);
    let routes = asking(world_routes(&witness), &pebble);
    let certificates = Arc::new(Certificates::open(store, &routes, system_clock()).unwrap());
    let public = Arc::new(Public::open(store, &routes, system_clock()).unwrap());
    let challenges = Arc::new(Challenges::default());
    let any: Vec<SocketAddr> = vec!["127.0.0.1:0".parse().unwrap()];
    let world = Some(World { ports, certificates: public.clone(), challenges: challenges.clone() });
    let config = Config { http: any.clone(), https: any, world, ..Config::default() };
    let server = Server::start(config, routes.clone(), certificates).unwrap();
    server.open_to_world().unwrap();
    let ca = store.join("believed.pem");
    std::fs::write(&ca, &pebble.ca).unwrap();
    let page = |name: &str| {
        let mut curl = Command::new("curl");
        curl.args(["-sSf", "-m", "30", "--noproxy", "*", "--connect-to"]).arg(format!("::127.0.0.1:{}", ports.https));
        let said = curl.arg("--cacert").arg(&ca).arg(format!("https://{name}/page")).output().unwrap();
        said.status.success().then_some(()).ok_or_else(|| String::from_utf8_lossy(&said.stderr).into_owned())
    };
    assert!(page(NAME).is_err(), "adt's own authority is none that the world believes");

    let place = Place { store: store.to_owned(), challenges, public, believed: Vec::new };
    let keeper = Keeper::start(place).unwrap();
    keeper.follow(routes.clone());
    soon("the authority's certificate is shown", &pebble.log, || page(NAME).ok());
    assert_eq!(page("shop.example"), Ok(()), "one order is for all names");
    assert_eq!(pebble.given(), 1);
    let id = &routes.platforms[1].environments[0].id;
    let (pem, record) =
        (Given::of(store, id).path().to_owned(), store.join(format!("tls/acme/{}.{}.json", id.platform, id.name)));
    for file in std::fs::read_dir(pem.parent().unwrap()).unwrap().flatten() {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", file.path());
    }
    // The same names again: nothing is asked.
    keeper.follow(routes.clone());
    let mut known: serde_json::Value = soon("it is looked at again", &pebble.log, || {
        serde_json::from_slice(&std::fs::read(&record).ok()?)
            .ok()
            .filter(|known: &serde_json::Value| known["tries"] == 0 && known["ask_again"] != 0)
    });

    // Its time has come: every request meanwhile is answered.
    let before = std::fs::read(&pem).unwrap();
    known["renew"] = 1.into();
    known["ask_again"] = i64::MAX.into();
    std::fs::write(&record, known.to_string()).unwrap();
    keeper.follow(routes);
    soon("it is renewed", &pebble.log, || {
        assert_eq!(page(NAME), Ok(()));
        (std::fs::read(&pem).unwrap() != before).then_some(())
    });
    assert_eq!(page(NAME), Ok(()));
    assert_eq!(pebble.given(), 2, "it asks no more often than it must");
}
