//! Everything that flows: uploads, events, trailers, WebSockets.

use std::io::{Read, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use adt::model::Protocol;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame};
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::backend::{self, RUNTIME};
use super::{HOST, resident, routes, world, world_with, www};

/// Accepts an upgrade and sends back what it gets; after the end of it, one last word.
fn websocket() -> std::net::SocketAddr {
    backend::raw(|mut stream| {
        let Some(head) = backend::head(&mut stream) else { return };
        let head = head.to_ascii_lowercase();
        assert!(head.contains("upgrade: websocket") && head.contains("connection: upgrade"), "{head}");
        let accepted =
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n";
        stream.write_all(accepted.as_bytes()).unwrap();
        let mut buffer = [0; 1024];
        loop {
            match stream.read(&mut buffer) {
                Ok(0) | Err(_) => break,
                Ok(length) => stream.write_all(&buffer[..length]).unwrap(),
            }
        }
        let _ = stream.write_all(b"bye");
    })
}

#[test]
fn websockets_carry_both_directions_and_half_a_close() {
    let world = world(&[websocket()]);
    let mut client = world.connect();
    let ask = format!(
        "GET /ws HTTP/1.1\r\nHost: {HOST}\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n"
    );
    client.write_all(ask.as_bytes()).unwrap();
    let head = backend::head(&mut client).unwrap();
    assert!(head.starts_with("HTTP/1.1 101") && head.to_ascii_lowercase().contains("sec-websocket-accept: x"), "{head}");
    for word in ["one", "two"] {
        client.write_all(word.as_bytes()).unwrap();
        let mut back = vec![0; word.len()];
        client.read_exact(&mut back).unwrap();
        assert_eq!(back, word.as_bytes());
    }
    client.shutdown(std::net::Shutdown::Write).unwrap();
    let mut rest = String::new();
    client.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "bye");
}

#[test]
fn websockets_work_through_http2() {
    let world = world(&[websocket()]);
    RUNTIME.block_on(async {
        let stream = tokio::net::TcpStream::connect(world.http()).await.unwrap();
        let (mut sender, driver) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(driver);
        // The server's settings, which allow it, come before the answer to anything.
        let home = Request::get("http://example.test/").body(Full::new(Bytes::new())).unwrap();
        assert_eq!(sender.send_request(home).await.unwrap().status(), 200);
        let mut request = Request::connect(format!("http://{HOST}/ws")).body(Full::new(Bytes::new())).unwrap();
        request.extensions_mut().insert(hyper::ext::Protocol::from_static("websocket"));
        let response = sender.send_request(request).await.unwrap();
        assert_eq!(response.status(), 200);
        let mut upgraded = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
        tokio::io::AsyncWriteExt::write_all(&mut upgraded, b"hello").await.unwrap();
        let mut back = [0; 5];
        tokio::io::AsyncReadExt::read_exact(&mut upgraded, &mut back).await.unwrap();
        assert_eq!(&back, b"hello");
    });
}

#[test]
fn events_arrive_one_by_one() {
    let (seen, saw) = mpsc::channel::<()>();
    let saw = Mutex::new(saw);
    let address = backend::raw(move |mut stream| {
        let Some(head) = backend::head(&mut stream) else { return };
        if head.contains("/healthz") {
            return;
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
        for number in 0..5 {
            stream.write_all(format!("8\r\ndata: {number}\n\r\n").as_bytes()).unwrap();
            // The next is sent only when the client has this one.
            saw.lock().unwrap().recv_timeout(super::PATIENCE).unwrap();
        }
        stream.write_all(b"0\r\n\r\n").unwrap();
    });
    let world = world(&[address]);
    let mut client = world.connect();
    client.write_all(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes()).unwrap();
    backend::head(&mut client).unwrap();
    for number in 0..5 {
        let mut event = [0; 13];
        client.read_exact(&mut event).unwrap();
        assert_eq!(String::from_utf8_lossy(&event), format!("8\r\ndata: {number}\n\r\n"));
        seen.send(()).unwrap();
    }
}

#[test]
fn uploads_of_any_size_pass_without_being_kept() {
    const SIZE: u64 = 200 << 20;
    let web = backend::serve(|request| {
        Box::pin(async move {
            let (mut body, mut total) = (request.into_body(), 0);
            while let Some(Ok(frame)) = body.frame().await {
                total += frame.data_ref().map_or(0, |data| data.len() as u64);
                if total % 64 == 0 {
                    tokio::task::yield_now().await;
                }
            }
            backend::text(total.to_string())
        })
    });
    let world = world(&[web.address]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("large");
    std::fs::File::create(&file).unwrap().set_len(SIZE).unwrap();
    let before = resident();
    let most = AtomicU64::new(before);
    let upload = format!("@{}", file.display());
    for args in [["--http1.1", "-HExpect:"], ["--http2", "-HExpect:"]] {
        std::thread::scope(|scope| {
            let upload = scope.spawn(|| {
                world.curl(&[&args[..], &["-X", "POST", "-T", &upload[1..]]].concat(), "https://www.1161.shop.example.test/up")
            });
            while !upload.is_finished() {
                most.fetch_max(resident(), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(10));
            }
            let said = upload.join().unwrap();
            assert!(said.starts_with(&SIZE.to_string()), "{said}");
        });
    }
    let grown = most.load(Ordering::Relaxed) - before;
    println!("two uploads of 200 MB: {grown} MB more resident at most");
    assert!(grown < 64, "{grown} MB");
}

/// A client that does not read stops the backend's sending.
#[test]
fn a_slow_reader_holds_the_sender_back() {
    let sent = std::sync::Arc::new(AtomicU64::new(0));
    let counter = sent.clone();
    let address = backend::raw(move |mut stream| {
        let Some(head) = backend::head(&mut stream) else { return };
        if head.contains("/healthz") {
            return;
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n").unwrap();
        stream.set_write_timeout(Some(Duration::from_millis(700))).unwrap();
        let block = [0; 65536];
        while let Ok(length) = stream.write(&block) {
            counter.fetch_add(length as u64, Ordering::Relaxed);
        }
    });
    let world = world(&[address]);
    let mut client = world.connect();
    client.write_all(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes()).unwrap();
    let mut before = u64::MAX;
    super::until("a standstill", || {
        std::thread::sleep(Duration::from_millis(100));
        let now = sent.load(Ordering::Relaxed);
        now > 0 && std::mem::replace(&mut before, now) == now
    });
    // What sockets' buffers take, but not more.
    assert!(before < 40 << 20, "{before} bytes were taken");
}

#[test]
fn grpc_keeps_its_trailers_over_h2c() {
    let web = backend::serve(|request| {
        Box::pin(async move {
            assert_eq!(request.version(), hyper::Version::HTTP_2);
            assert_eq!(request.headers()["te"], "trailers");
            let body = request.into_body().collect().await.unwrap().to_bytes();
            let trailers: HeaderMap = [("grpc-status".parse().unwrap(), "0".parse().unwrap())].into_iter().collect();
            let frames = [Ok(Frame::data(body)), Ok(Frame::trailers(trailers))];
            let body = StreamBody::new(futures(frames)).boxed();
            Response::builder().header("content-type", "application/grpc").body(body).unwrap()
        })
    });
    let mut routes = routes(&[web.address]);
    www(&mut routes).protocol = Protocol::H2c;
    let world = world_with(routes, Default::default());
    RUNTIME.block_on(async {
        let stream = tokio::net::TcpStream::connect(world.http()).await.unwrap();
        let (mut sender, driver) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(driver);
        for _ in 0..3 {
            let request = Request::post(format!("http://{HOST}/shop.Cart/Add")).header("te", "trailers");
            let response = sender.send_request(request.body(Full::new(Bytes::from("message"))).unwrap()).await.unwrap();
            let body = response.into_body().collect().await.unwrap();
            assert_eq!(body.trailers().unwrap()["grpc-status"], "0");
            assert_eq!(body.to_bytes(), "message");
        }
    });
}

fn futures<T: Unpin>(items: impl IntoIterator<Item = T>) -> impl futures_core::Stream<Item = T> {
    struct Items<I>(I);
    impl<I: Iterator + Unpin> futures_core::Stream for Items<I> {
        type Item = I::Item;
        fn poll_next(mut self: std::pin::Pin<&mut Self>, _: &mut std::task::Context<'_>) -> std::task::Poll<Option<I::Item>> {
            std::task::Poll::Ready(self.0.next())
        }
    }
    Items(items.into_iter().collect::<Vec<_>>().into_iter())
}
