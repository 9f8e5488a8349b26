//! Backends: one on hyper for everyday requests, and raw sockets for what no server does willingly.

use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};

use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};

pub type Body = BoxBody<Bytes, Infallible>;
type Answering = Pin<Box<dyn Future<Output = Response<Body>> + Send>>;

pub static RUNTIME: LazyLock<tokio::runtime::Runtime> =
    LazyLock::new(|| tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap());

pub struct Served {
    pub address: SocketAddr,
    pub requests: Arc<AtomicUsize>,
    stop: tokio::sync::watch::Sender<bool>,
    task: tokio::task::JoinHandle<()>,
}

impl Served {
    /// Like a machine that loses power, except that its kernel still resets connections.
    pub fn kill(self) {
        self.stop.send_replace(true);
        RUNTIME.block_on(self.task).unwrap();
    }

    pub fn count(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }
}

pub fn text(text: impl Into<String>) -> Response<Body> {
    Response::new(Full::new(Bytes::from(text.into())).boxed())
}

/// Answers with its name, method, target and head, one header a line.
pub fn echo(name: &'static str) -> Served {
    serve(move |request| {
        Box::pin(async move {
            let mut said = format!("{name}\n{} {}\n", request.method(), request.uri());
            for (key, value) in request.headers() {
                said.push_str(&format!("{key}: {}\n", value.to_str().unwrap()));
            }
            let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            said.push_str(&format!("\n{}", String::from_utf8_lossy(&body)));
            text(said)
        })
    })
}

pub fn serve(handler: impl Fn(Request<Incoming>) -> Answering + Send + Sync + 'static) -> Served {
    let requests = Arc::new(AtomicUsize::new(0));
    let (handler, counter) = (Arc::new(handler), requests.clone());
    let listener = RUNTIME.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let task = RUNTIME.spawn(async move {
        let mut over = stopped.clone();
        let mut connections = tokio::task::JoinSet::new();
        loop {
            let stream = tokio::select! {
                accepted = listener.accept() => accepted.unwrap().0,
                _ = over.wait_for(|over| *over) => break,
            };
            let (handler, counter) = (handler.clone(), counter.clone());
            let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                if request.uri().path() != "/healthz" {
                    counter.fetch_add(1, Ordering::Relaxed);
                }
                let answer = handler(request);
                async move { Ok::<_, Infallible>(answer.await) }
            });
            connections.spawn(async move {
                let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                let _ = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await;
            });
        }
        drop(listener);
        connections.shutdown().await;
    });
    Served { address, requests, stop, task }
}

/// A thread for each connection.
pub fn raw(handler: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let handler = Arc::new(handler);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let handler = handler.clone();
            std::thread::spawn(move || handler(stream));
        }
    });
    address
}

/// Reads a head from a socket, byte by byte so that nothing behind it is taken.
pub fn head(stream: &mut TcpStream) -> Option<String> {
    use std::io::Read;
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).ok()? == 0 {
            return None;
        }
        head.push(byte[0]);
    }
    String::from_utf8(head).ok()
}
