//! A real environment opened by what people use: curl, dig, the resolver, Chromium, and NSS as Firefox has it. None of them is
//! told to trust anything that `host:bind-proxy` did not make it trust.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Stdio};

use serde_json::{Value, json};

use super::front::send;
use super::served::{SITE, Served};
use super::servers::{installed, until};

#[test]
fn a_real_site_opens_in_every_client() {
    if !installed(&["chromium", "chromedriver", "certutil", "vfyserv", "curl", "dig"]) {
        return;
    }
    let Some(served) = Served::new() else { return };
    names(&served);
    curl(&served);
    chromium(&served);
    firefox(&served);
    served.end();
}

fn names(served: &Served) {
    for program in [&["dig", "+short", SITE][..], &["dig", "+short", "+tcp", SITE], &["getent", "hosts", SITE]] {
        let said = served.program(program[0], &program[1..]);
        assert!(said.contains("127.77.77.77"), "{program:?}: {said}");
    }
}

fn curl(served: &Served) {
    for version in ["--http1.1", "--http2"] {
        let url = format!("https://{SITE}/");
        let said = served.program("curl", &["-sS", "--noproxy", "*", version, "-w", "%{http_code} %{http_version}", &url]);
        let wanted = if version == "--http2" { "200 2" } else { "200 1.1" };
        assert!(said.ends_with(wanted) && said.contains("<title>"), "{said}");
    }
}

fn chromium(served: &Served) {
    let url = format!("https://{SITE}/");
    let trusting = Chromium::start(served, &served.home, 9515);
    trusting.post("url", &json!({ "url": url })).unwrap_or_else(|error| panic!("{url} does not open: {error}"));
    let facts = "return [document.title, isSecureContext, location.href, document.querySelectorAll('form').length,
        performance.getEntriesByType('navigation')[0].nextHopProtocol]";
    let seen = trusting.post("execute/sync", &json!({ "script": facts, "args": [] })).unwrap();
    assert_eq!(seen, json!(["Guest book of 1161", true, url, 1, "h2"]));
    let (state, issuer) = trusting.security(&url);
    assert_eq!((state.as_str(), issuer.contains("example.test")), ("secure", true), "{issuer}");
    trusting.screenshot("trusting");
    drop(trusting);
    // The same browser in a home that was told nothing.
    let stranger = served.adt.path().join("stranger");
    std::fs::create_dir(&stranger).unwrap();
    let stranger = Chromium::start(served, &stranger, 9516);
    // Whether a browser calls that a failure of the command differs; what it shows does not.
    drop(stranger.post("url", &json!({ "url": url })));
    stranger.screenshot("stranger");
    let facts = "return [isSecureContext, document.forms.length, document.body.innerText]";
    let seen = stranger.post("execute/sync", &json!({ "script": facts, "args": [] })).unwrap();
    assert_eq!((&seen[0], &seen[1]), (&json!(false), &json!(0)), "{seen}");
    assert!(seen[2].as_str().is_some_and(|text| text.contains("ERR_CERT_AUTHORITY_INVALID")), "{seen}");
}

/// NSS itself, with the database of a Firefox profile, does what Firefox does at each connection.
fn firefox(served: &Served) {
    let profile = format!("sql:{}", served.home.join(".mozilla/firefox/test.default").display());
    let listed = served.program("certutil", &["-L", "-d", &profile]);
    assert!(listed.contains("adt local authority for example.test") && listed.contains("C,,"), "{listed}");
    let (_, said) = served.attempt("vfyserv", &["-d", &profile, "-p", "443", SITE]);
    assert!(said.contains("SERVER CONFIGURED CORRECTLY"), "{said}");
    let empty = served.adt.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    let empty = format!("sql:{}", empty.display());
    served.program("certutil", &["-N", "--empty-password", "-d", &empty]);
    let (_, said) = served.attempt("vfyserv", &["-d", &empty, "-p", "443", SITE]);
    assert!(said.contains("issuer is not recognized"), "{said}");
}

/// A browser that is driven by WebDriver, which is HTTP and JSON.
struct Chromium<'a> {
    served: &'a Served,
    driver: Child,
    port: u16,
    session: String,
}

impl<'a> Chromium<'a> {
    fn start(served: &'a Served, home: &Path, port: u16) -> Self {
        // A browser is many processes: they end with the first of their own process namespace, however this test ends.
        let mut command = served.adt.program_there("unshare");
        command.args(["--pid", "--fork", "--kill-child", "--mount-proc", "chromedriver", &format!("--port={port}")]);
        command.env("HOME", home).stdin(Stdio::null());
        let log = std::fs::File::create(home.join("chromedriver.log")).unwrap();
        let driver = command.stdout(log.try_clone().unwrap()).stderr(log).spawn().expect("it is installed");
        let mut browser = Self { served, driver, port, session: String::new() };
        let at = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        until("chromedriver listens", || served.there(|| TcpStream::connect(at).is_ok()));
        let data = format!("--user-data-dir={}", home.join("profile").display());
        let args = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic", "--no-first-run"];
        let quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync", &data];
        let args = [&args[..], &quiet].concat();
        let options = json!({ "binary": "/usr/bin/chromium", "args": args });
        let wanted = json!({ "goog:chromeOptions": options, "goog:loggingPrefs": { "performance": "ALL" } });
        let made = browser.ask("POST", "/session", &json!({ "capabilities": { "alwaysMatch": wanted } })).unwrap();
        browser.session = made["sessionId"].as_str().expect("a session has a name").to_owned();
        browser
    }

    fn ask(&self, method: &str, path: &str, body: &Value) -> Result<Value, String> {
        let (at, body) = (SocketAddr::from((Ipv4Addr::LOCALHOST, self.port)), body.to_string());
        let json = [("Content-Type", "application/json")];
        let answer = self.served.there(|| send(at, method, "localhost", path, &json, body.as_bytes()));
        let said: Value = serde_json::from_str(&answer.body).map_err(|error| format!("{error}: {answer:?}"))?;
        if answer.status == 200 { Ok(said["value"].clone()) } else { Err(said["value"].to_string()) }
    }

    fn post(&self, command: &str, body: &Value) -> Result<Value, String> {
        self.ask("POST", &format!("/session/{}/{command}", self.session), body)
    }

    /// What the browser itself says of the page's connection, and who signed its certificate.
    fn security(&self, url: &str) -> (String, String) {
        let log = self.post("se/log", &json!({ "type": "performance" })).unwrap();
        let entries = log.as_array().expect("a list").iter().filter_map(|entry| entry["message"].as_str());
        let events = entries.filter_map(|text| serde_json::from_str::<Value>(text).ok());
        let mut pages = events.map(|event| event["message"]["params"]["response"].clone());
        let page = pages.find(|response| response["url"] == url).expect("the page was fetched");
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        (word(&page["securityState"]), word(&page["securityDetails"]["issuer"]))
    }

    /// To look at: kept where `ADT_SCREENSHOTS` says, which nobody sets in a test run.
    fn screenshot(&self, name: &str) {
        let Some(folder) = std::env::var_os("ADT_SCREENSHOTS") else { return };
        let path = format!("/session/{}/screenshot", self.session);
        let at = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        let answer = self.served.there(|| send(at, "GET", "localhost", &path, &[], b""));
        std::fs::write(Path::new(&folder).join(format!("{name}.json")), answer.body).unwrap();
    }
}

impl Drop for Chromium<'_> {
    fn drop(&mut self) {
        if !self.session.is_empty() {
            drop(self.ask("DELETE", &format!("/session/{}", self.session), &json!({})));
        }
        drop(self.driver.kill());
        drop(self.driver.wait());
    }
}
