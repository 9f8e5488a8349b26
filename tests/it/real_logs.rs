//! Logs of real machines: merged, chosen, followed across restarts, and sent to real receivers that come and go.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::adt::Adt;
use super::real_hello::{address, get};

/// A program whose lines can be waited for.
struct Lines {
    child: Child,
    seen: Arc<Mutex<String>>,
}

impl Lines {
    fn start(adt: &Adt, words: &str) -> Self {
        let words: Vec<_> = words.split_whitespace().collect();
        let mut child = adt.command(&words).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("it starts");
        let out = child.stdout.take().expect("it was piped");
        let seen = Arc::new(Mutex::new(String::new()));
        let into = Arc::clone(&seen);
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                into.lock().expect("nobody panics with it").push_str(&(line + "\n"));
            }
        });
        Self { child, seen }
    }

    #[track_caller]
    fn shows(&self, text: &str) {
        until(text, || self.seen.lock().expect("nobody panics with it").contains(text));
    }

    /// Ctrl-C; the exit code.
    fn interrupt(mut self) -> Option<i32> {
        let pid = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw).expect("a process");
        rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("it runs");
        self.child.wait().expect("it is ours").code()
    }
}

#[track_caller]
fn until(what: &str, holds: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < end, "this never came: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn records_of_all_machines_come_in_order_and_are_followed() {
    let Some(adt) = Adt::real() else { return };
    let adt = adt.alone();
    adt.run("platform:init hello").ok();
    adt.run("env:logs 1").fails(4);
    adt.run("env:init 1").ok();
    let log = |machine: &str, text: &str| drop(adt.run(&format!("env:exec 1 {machine} -- logger -t mine {text}")).ok());
    for (machine, text) in [("db", "mine-1"), ("web2", "mine-2"), ("web1", "mine-3"), ("db", "mine-4")] {
        log(machine, text);
    }
    adt.run("env:exec 1 web1 -- curl --silent --output /dev/null http://127.0.0.1/from-the-test").ok();
    let shown = adt.run("env:logs 1 --grep mine-[0-9] -n 3").ok().stdout;
    let told: Vec<_> = shown.lines().map(|line| line.split_whitespace().skip(2).collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(told, ["web2 mine mine-2", "web1 mine mine-3", "db mine mine-4"], "{shown}");
    let shown = adt.run("env:logs 1 --since 1h").ok().stdout;
    let times: Vec<_> = shown.lines().filter(|line| line.contains("mine-")).map(|line| &line[..23]).collect();
    assert!(times.is_sorted() && times.len() == 4, "{shown}");

    let json = adt.run("env:logs 1 --machine db --machine web2 --grep mine --json").ok().stdout;
    let records: Vec<Value> = json.lines().map(|line| serde_json::from_str(line).expect("one object per line")).collect();
    let machines: Vec<_> = records.iter().map(|record| record["machine"].as_str().expect("a name")).collect();
    assert_eq!(machines, ["db", "web2", "db"]);
    assert_eq!((&records[0]["unit"], &records[0]["message"]), (&"mine".into(), &"mine-1".into()));

    let site = adt.run("env:logs 1 --site www --since 1h").ok().stdout;
    assert!(site.contains("/from-the-test") && !site.contains("mine-") && !site.contains(" db "), "{site}");
    adt.run("env:logs 1 --site api").fails(4).says("its sites are www");
    adt.run("env:logs 1 --since soon").fails(2).says("hint:");
    adt.run("env:logs 1 --grep (").fails(2).says("unclosed group");
    let later = adt.run("env:logs 1 --since 0s").ok().stdout;
    assert!(!later.contains("mine-"), "{later}");

    adt.run("env:exec 1 web1 -- logger -t mine \u{1b}]0;title\u{7}escape").ok();
    let shown = adt.run("env:logs 1 --grep escape").ok().stdout;
    assert!(shown.contains("\\x1b]0;title\\x07escape") && !shown.contains('\u{1b}'), "{shown}");

    let follow = Lines::start(&adt, "env:logs 1 --follow");
    follow.shows("escape");
    log("web2", "while-followed");
    follow.shows("while-followed");
    // Turned as logrotate turns it: by another name at first, and then as a copy.
    let inside = |script: &str| {
        let script = format!("cd /var/log/apache2; {script}");
        assert!(adt.command(&["env:exec", "1", "web1", "--", "sh", "-c", &script]).status().expect("it runs").success());
    };
    inside("echo turned-1 >> turned.log");
    follow.shows("turned-1");
    inside(
        "exec 9>> turned.log; echo turned-2 >&9; mv turned.log turned.log.1; echo turned-3 > turned.log; sleep 1
         echo turned-4 >&9; echo turned-5 >> turned.log",
    );
    follow.shows("turned-5");
    inside("echo turned-6 >> turned.log; cp turned.log turned.log.2; : > turned.log; echo turned-7 >> turned.log");
    (1..=7).for_each(|number| follow.shows(&format!("turned-{number}")));
    let seen = follow.seen.lock().expect("nobody panics with it").clone();
    for number in 1..=7 {
        assert_eq!(seen.matches(&format!("turned-{number}")).count(), 1, "turned-{number}: {seen}");
    }
    // A halt does not wait for those who read.
    let halted = Instant::now();
    adt.run("env:halt 1").ok();
    assert!(halted.elapsed() < Duration::from_secs(9), "the readers hold up the halt");
    adt.run("env:logs 1").fails(5).says("none of these machines runs").says("env:up");
    adt.run("env:up 1").ok();
    log("web2", "after-restart");
    follow.shows("after-restart");
    let seen = follow.seen.lock().expect("nobody panics with it").clone();
    assert_eq!(seen.matches("while-followed").count(), 1, "{seen}");
    assert_eq!(follow.interrupt(), Some(0));
    adt.run("env:destroy 1 --yes").ok();
    assert_eq!(adt.leftovers(), Vec::<String>::new());
}

/// An event collector that can be busy.
struct Collector {
    port: u16,
    busy: Arc<AtomicBool>,
    events: Arc<Mutex<Vec<Value>>>,
}

impl Collector {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("the loopback has a port");
        let port = listener.local_addr().expect("it is bound").port();
        let (busy, events) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let (refuses, into) = (Arc::clone(&busy), Arc::clone(&events));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (refuses, into) = (Arc::clone(&refuses), Arc::clone(&into));
                std::thread::spawn(move || serve(stream, &refuses, &into));
            }
        });
        Self { port, busy, events }
    }

    fn count(&self, text: &str) -> usize {
        let events = self.events.lock().expect("nobody panics with it");
        events.iter().filter(|event| event["event"].as_str().is_some_and(|told| told.contains(text))).count()
    }
}

fn serve(stream: TcpStream, busy: &AtomicBool, into: &Mutex<Vec<Value>>) {
    let mut reader = BufReader::new(stream.try_clone().expect("a socket can be shared"));
    loop {
        let mut length = 0;
        let mut authorized = false;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            let line = line.trim().to_ascii_lowercase();
            if let Some(number) = line.strip_prefix("content-length: ") {
                length = number.parse().expect("a number");
            }
            authorized |= line == "authorization: splunk s3cret";
            if line.is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).expect("a whole body");
        let status = if busy.load(Ordering::Relaxed) {
            "503 Busy"
        } else if !authorized {
            "403 Forbidden"
        } else {
            let events = serde_json::Deserializer::from_slice(&body).into_iter::<Value>().map(|event| event.expect("JSON"));
            into.lock().expect("nobody panics with it").extend(events);
            "200 OK"
        };
        let answer = "{\"text\":\"x\",\"code\":0}";
        let text = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{answer}", answer.len());
        (&stream).write_all(text.as_bytes()).expect("it waits for it");
    }
}

#[test]
fn logs_are_sent_to_splunk_through_busy_times_and_restarts() {
    let Some(adt) = Adt::real() else { return };
    let collector = Collector::start();
    let token = adt.path().join("token");
    std::fs::write(&token, "s3cret\n").expect("a file in the home");
    let config = adt.path().join("shipping.toml");
    let text = format!(
        "[logs]\nbuffer_megabytes = 1\nsplunk = {{ url = \"http://127.0.0.1:{}\", token_file = \"{}\" }}\n",
        collector.port,
        token.display()
    );
    std::fs::write(&config, text).expect("a file in the home");
    let adt = adt.env("ADT_CONFIG", config.to_str().expect("a plain path")).env("ADT_LISTEN", "127.77.93.1");
    adt.run("host:check").says("logs.splunk");
    adt.run("platform:init hello").ok();
    adt.run("env:init 1").ok();
    adt.run("host:up --detach").ok();
    let log = |text: &str| drop(adt.run(&format!("env:exec 1 -- logger -t mine {text}")).ok());
    log("first");
    until("first", || collector.count("first") == 3);
    drop(get(&address(&adt, "1", "web1"), "www.1.hello.example.test", "/from-the-test"));
    until("a line of a file", || collector.count("/from-the-test") == 1);

    collector.busy.store(true, Ordering::Relaxed);
    log("while-busy");
    adt.run("host:halt").ok();
    log("while-away");
    adt.run("host:up --detach").ok();
    collector.busy.store(false, Ordering::Relaxed);
    until("while-away", || collector.count("while-away") == 3);
    // Nothing twice, nothing lost.
    assert_eq!(["first", "while-busy", "while-away", "/from-the-test"].map(|text| collector.count(text)), [3, 3, 3, 1]);

    // Far more than may wait: the machine goes on, the receiver is told what it missed.
    collector.busy.store(true, Ordering::Relaxed);
    log("busy-again");
    let flood = "i=0; while [ $i -lt 15000 ]; do echo flood-$i-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; i=$((i+1)); done >> /var/log/apache2/flood.log";
    assert!(adt.command(&["env:exec", "1", "web1", "--", "sh", "-c", flood]).status().expect("it runs").success());
    std::thread::sleep(Duration::from_secs(6));
    collector.busy.store(false, Ordering::Relaxed);
    until("the last of the flood", || collector.count("flood-14999-") == 1);
    until("the notice", || collector.count("lines were dropped") >= 1);
    let log_of_daemon = std::fs::read_to_string(adt.store().join("daemon.log")).expect("it was started");
    assert!(!log_of_daemon.contains("s3cret"), "{log_of_daemon}");
    adt.run("host:halt").ok();
    adt.run("env:destroy 1 --yes").ok();
    assert_eq!(adt.leftovers(), Vec::<String>::new());
}

#[test]
fn logs_are_sent_to_rsyslog() {
    let Some(adt) = Adt::real() else { return };
    let installed = std::process::Command::new("rsyslogd").arg("-v").output().is_ok();
    if !installed {
        assert!(std::env::var_os("CI").is_none(), "in CI rsyslog must be there");
        eprintln!("NOT RUN, because rsyslog is not installed");
        return;
    }
    let port = TcpListener::bind("127.0.0.1:0").expect("the loopback has a port").local_addr().expect("it is bound").port();
    let (conf, out) = (adt.path().join("rsyslog.conf"), adt.path().join("received"));
    let rules = format!(
        "module(load=\"imtcp\")\ntemplate(name=\"t\" type=\"string\" string=\"%hostname%|%app-name%|%structured-data%|%msg%\\n\")\n\
         input(type=\"imtcp\" port=\"{port}\" address=\"127.0.0.1\")\naction(type=\"omfile\" file=\"{}\" template=\"t\")\n",
        out.display()
    );
    std::fs::write(&conf, rules).expect("a file in the home");
    let mut server =
        std::process::Command::new("rsyslogd").args(["-n", "-iNONE", "-f"]).arg(&conf).spawn().expect("it is installed");
    let config = adt.path().join("shipping.toml");
    std::fs::write(&config, format!("[logs]\nsyslog = \"tcp://127.0.0.1:{port}\"\n")).expect("a file in the home");
    let adt = adt.env("ADT_CONFIG", config.to_str().expect("a plain path")).env("ADT_LISTEN", "127.77.93.2");
    adt.run("platform:init hello").ok();
    adt.run("env:init 1").ok();
    adt.run("host:up --detach").ok();
    adt.run("env:exec 1 db -- logger -t mine to-rsyslog").ok();
    let received = || std::fs::read_to_string(&out).unwrap_or_default();
    until("the message", || received().contains("to-rsyslog"));
    let text = received();
    let line = text.lines().find(|line| line.contains("to-rsyslog")).expect("it is there");
    assert!(
        line.starts_with("db.1.hello.example.test|mine|[adt@32473 platform=\"hello\" environment=\"1\" machine=\"db\""),
        "{line}"
    );
    adt.run("host:halt").ok();
    server.kill().expect("it runs");
    server.wait().expect("it is ours");
    adt.run("env:destroy 1 --yes").ok();
}

/// A syslog server and an event collector that speak only TLS.
const SECURE_RECEIVERS: &str = r#"
import http.server, socketserver, ssl, sys, threading
chain, key, folder = sys.argv[1:]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(chain, key)

class Syslog(socketserver.BaseRequestHandler):
    def handle(self):
        with open(folder + "/syslog", "ab", 0) as out:
            while data := self.request.recv(65536):
                out.write(data)

class Collector(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with open(folder + "/splunk", "ab", 0) as out:
            out.write(body)
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    def get_request(self):
        stream, peer = self.socket.accept()
        return context.wrap_socket(stream, server_side=True), peer

for port, handler in (6514, Syslog), (8088, Collector):
    threading.Thread(target=Server(("127.0.0.1", port), handler).serve_forever).start()
print("ready", flush=True)
"#;

#[test]
fn logs_are_sent_over_tls_to_whom_the_host_trusts() {
    if !super::servers::installed(&["python3"]) {
        return;
    }
    let Some((adt, _)) = super::real_check::host() else { return };
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
    let file = |name: &str, text: &str| {
        std::fs::write(adt.path().join(name), text).expect("a file in the home");
        adt.path().join(name).display().to_string()
    };
    let (chain, key) = (file("chain.pem", &made.cert.pem()), file("key.pem", &made.signing_key.serialize_pem()));
    let folder = adt.path().display().to_string();
    let mut python = adt.program_there("python3");
    let mut receivers =
        python.args(["-c", SECURE_RECEIVERS, &chain, &key, &folder]).stdout(Stdio::piped()).spawn().expect("it is installed");
    let mut ready = String::new();
    BufReader::new(receivers.stdout.take().expect("it was piped")).read_line(&mut ready).expect("it tells when it is ready");
    assert_eq!(ready, "ready\n");
    let token = file("token", "s3cret\n");
    let config = file(
        "shipping.toml",
        &format!(
            "[logs]\nsyslog = \"tls://localhost\"\nsplunk = {{ url = \"https://localhost:8088\", token_file = \"{token}\" }}\n"
        ),
    );
    let adt = adt.env("ADT_CONFIG", &config);
    let shown = adt.run("host:check");
    shown.says("tls://localhost:6514").says("https://localhost:8088");
    adt.run("platform:init hello").ok();
    adt.run("env:init 1").ok();
    adt.run("host:up --detach").ok();
    adt.run("env:exec 1 db -- logger -t mine in-secret").ok();
    let log = || std::fs::read_to_string(adt.store().join("daemon.log")).unwrap_or_default();
    until("a complaint about each certificate", || log().matches("UnknownIssuer").count() >= 2);
    let received = |name: &str| std::fs::read_to_string(adt.path().join(name)).unwrap_or_default();
    assert_eq!(
        (received("syslog"), received("splunk")),
        (String::new(), String::new()),
        "nobody gets what they are not trusted with"
    );

    let bundle = adt.at("/etc/ssl/certs/ca-certificates.crt");
    let trusted = std::fs::read_to_string(&bundle).expect("this host trusts somebody");
    std::fs::write(&bundle, trusted + &made.cert.pem()).expect("the folder is the test's own");
    for name in ["syslog", "splunk"] {
        until(name, || received(name).contains("in-secret"));
        assert_eq!(received(name).matches("in-secret").count(), 1, "{name}");
    }
    assert!(!log().contains("s3cret"));
    adt.run("host:halt").ok();
    receivers.kill().expect("it runs");
    receivers.wait().expect("it is ours");
    adt.run("env:destroy 1 --yes").ok();
    assert_eq!(adt.leftovers(), Vec::<String>::new());
}
