//! Backends that die, routes that change, clients that stay: what none of it may cost.

use std::io::{BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::{HOST, PATIENCE, World, backend, read, resident, routes, until, world, world_with};

#[derive(Default)]
struct Load {
    over: AtomicBool,
    good: AtomicUsize,
    bad: AtomicUsize,
    /// Connections that ended although nobody asked for it.
    dropped: AtomicUsize,
}

/// GETs over kept connections, from several threads, while `act` runs.
fn under_load(world: &World, act: impl FnOnce(&Load)) -> Load {
    let (load, address) = (Load::default(), world.http());
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| client(&load, address));
        }
        until("some load", || load.good.load(Ordering::Relaxed) > 100);
        act(&load);
        let target = load.good.load(Ordering::Relaxed) + 200;
        until("more load", || load.good.load(Ordering::Relaxed) > target || load.bad.load(Ordering::Relaxed) > 100);
        load.over.store(true, Ordering::Relaxed);
    });
    load
}

fn client(load: &Load, address: SocketAddr) {
    let connect = || {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        BufReader::new(stream)
    };
    let mut stream = connect();
    while !load.over.load(Ordering::Relaxed) {
        let request = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
        let sent = stream.get_mut().write_all(request.as_bytes()).is_ok();
        match read(&mut stream).filter(|_| sent) {
            Some(answer) if answer.status == 200 => load.good.fetch_add(1, Ordering::Relaxed),
            Some(answer) => {
                println!("{answer:?}");
                load.bad.fetch_add(1, Ordering::Relaxed)
            }
            None => {
                stream = connect();
                load.dropped.fetch_add(1, Ordering::Relaxed)
            }
        };
    }
}

impl Load {
    fn assert_clean(&self) {
        assert_eq!(self.bad.load(Ordering::Relaxed), 0, "failed requests");
        assert_eq!(self.dropped.load(Ordering::Relaxed), 0, "dropped connections");
    }
}

#[test]
fn a_dying_backend_costs_no_get() {
    let (one, two) = (backend::echo("one"), backend::echo("two"));
    let world = world(&[one.address, two.address]);
    let mut one = Some(one);
    under_load(&world, |_| one.take().unwrap().kill()).assert_clean();
    assert!(two.count() > 0);
}

#[test]
fn a_backend_that_takes_no_connection_costs_no_get() {
    let web = backend::echo("web");
    // A full backlog: connections are neither accepted nor refused.
    let deaf = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    rustix::net::listen(&deaf, 0).unwrap();
    let address = deaf.local_addr().unwrap();
    let _fill: Vec<_> = (0..4).map(|_| TcpStream::connect_timeout(&address, Duration::from_millis(100))).collect();
    let world = world_with(
        routes(&[address, web.address]),
        adt::proxy::Limits { connect: Duration::from_millis(200), ..Default::default() },
    );
    for _ in 0..6 {
        assert_eq!(world.get(HOST, "/").status, 200);
    }
}

#[test]
fn a_backend_that_closes_after_every_answer_costs_nothing() {
    let count = std::sync::Arc::new(AtomicUsize::new(0));
    let counter = count.clone();
    let address = backend::raw(move |mut stream| {
        if backend::head(&mut stream).is_some_and(|head| !head.contains("/healthz")) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
        // Says that it stays, and goes.
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    });
    let world = world(&[address]);
    under_load(&world, |_| {}).assert_clean();
    assert!(count.load(Ordering::Relaxed) > 300);
}

#[test]
fn what_may_not_be_repeated_is_sent_once() {
    let count = std::sync::Arc::new(AtomicUsize::new(0));
    let counter = count.clone();
    let dying = move |mut stream: TcpStream| {
        if backend::head(&mut stream).is_some_and(|head| !head.contains("/healthz")) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    };
    let (one, two) = (backend::raw(dying.clone()), backend::raw(dying));
    let world = world(&[one, two]);
    let answer = world.say(&format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 4\r\n\r\nbody"));
    assert_eq!((answer.status, count.swap(0, Ordering::Relaxed)), (502, 1), "{answer:?}");
    assert!(answer.body.contains("environment shop/1161") && answer.body.contains("adt env:check shop 1161"), "{answer:?}");
    let answer = world.say(&format!("PUT / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 4\r\n\r\nbody"));
    assert_eq!((answer.status, count.load(Ordering::Relaxed)), (502, 2), "{answer:?}");
}

#[test]
fn a_site_comes_back_by_itself() {
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = gone.local_addr().unwrap();
    drop(gone);
    let world = world(&[address]);
    let answer = world.get(HOST, "/");
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(answer.body.contains("web1") && answer.header("retry-after").is_some(), "{answer:?}");
    let listener = std::net::TcpListener::bind(address).unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            backend::head(&mut stream);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    });
    assert_eq!(world.get(HOST, "/").status, 200);
}

#[test]
fn routes_change_under_load_without_a_trace() {
    let (one, two) = (backend::echo("one"), backend::echo("two"));
    let world = world(&[one.address]);
    let load = under_load(&world, |_| {
        for round in 0..200 {
            let address = if round % 2 == 0 { two.address } else { one.address };
            world.server.update(routes(&[address]));
            std::thread::sleep(Duration::from_millis(2));
        }
        world.server.update(routes(&[two.address]));
    });
    load.assert_clean();
    assert!(one.count() > 0 && two.count() > 0);
    let before = one.count();
    assert_eq!(world.get(HOST, "/").body.lines().next(), Some("two"));
    assert_eq!(one.count(), before);
}

#[test]
fn stopping_lets_requests_finish_and_tells_the_idle() {
    let (go, wait) = tokio::sync::watch::channel(false);
    let web = backend::serve(move |_| {
        let mut wait = wait.clone();
        Box::pin(async move {
            wait.wait_for(|go| *go).await.unwrap();
            backend::text("done")
        })
    });
    let world = world(&[web.address]);
    let address = world.http();
    let mut idle = BufReader::new(world.connect());
    let mut busy = BufReader::new(world.connect());
    busy.get_mut().write_all(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes()).unwrap();
    until("the request", || web.count() == 1);
    let stopping = std::thread::spawn(move || world.server.stop(PATIENCE));
    // It ends without an answer.
    assert!(read(&mut idle).is_none());
    until("closed doors", || TcpStream::connect(address).is_err());
    go.send_replace(true);
    let answer = read(&mut busy).unwrap();
    assert_eq!((answer.status, answer.body.as_str()), (200, "done"));
    assert!(answer.header("connection").is_some_and(|value| value == "close"), "{answer:?}");
    assert!(stopping.join().unwrap(), "all requests finished");
}

#[test]
fn who_came_just_before_a_stop_is_answered() {
    let web = backend::serve(|_| Box::pin(async { backend::text("done") }));
    let world = world(&[web.address]);
    let address = world.http();
    let mut fresh = BufReader::new(world.connect());
    until("a place for it", || world.server.connections() == 1);
    let stopping = std::thread::spawn(move || world.server.stop(PATIENCE));
    until("closed doors", || TcpStream::connect(address).is_err());
    // Longer than it takes to tell all others.
    std::thread::sleep(Duration::from_millis(100));
    fresh.get_mut().write_all(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes()).unwrap();
    let answer = read(&mut fresh).expect("an answer");
    assert_eq!((answer.status, answer.body.as_str()), (200, "done"));
    assert!(stopping.join().unwrap(), "all requests finished");
}

#[test]
fn ten_thousand_idle_clients_are_no_burden() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    // Root may raise it. Both ends are ours, and one client has at most a quarter of all files.
    let maximum = getrlimit(Resource::Nofile).maximum;
    let more = Rlimit { current: Some(65_536), maximum: maximum.map(|most| most.max(65_536)) };
    let _ = setrlimit(Resource::Nofile, more).or_else(|_| setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }));
    let files = getrlimit(Resource::Nofile).current.unwrap_or(65_536);
    let wanted = usize::try_from(files).unwrap().saturating_sub(2000) / 4;
    let wanted = wanted.min(10_000);
    let web = backend::echo("web1");
    let world = world(&[web.address]);
    let before = resident();
    let began = Instant::now();
    let mut clients = Vec::with_capacity(wanted);
    for number in 0..wanted {
        let mut client = BufReader::with_capacity(256, world.connect());
        // Half of them have had an answer, as browsers' connections have.
        if number % 2 == 0 {
            client.get_mut().write_all(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes()).unwrap();
            assert_eq!(read(&mut client).unwrap().status, 200);
        }
        clients.push(client);
    }
    until("all of them", || world.server.connections() == wanted);
    let grown = resident() - before;
    println!("{wanted} idle clients: {grown} MB more resident, both ends; connected in {:?}", began.elapsed());
    assert!(grown < 200, "{grown} MB");
    assert_eq!(world.get(HOST, "/").status, 200);
}
