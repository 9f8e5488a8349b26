//! Asks backends how they are, where that matters: sites that somebody used just now, and backends that are marked down.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http_body_util::Empty;
use hyper::body::Bytes;
use hyper::header::{HOST, USER_AGENT};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use super::table::{Endpoint, Site, now};
use super::worker::Shared;
use crate::model::Protocol;

const EVERY: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(2);
/// A site is looked after for this long after its last request.
const RECENTLY: u64 = 30_000;
const AT_ONCE: usize = 64;

pub async fn watch(shared: Arc<Shared>) {
    let permits = Arc::new(Semaphore::new(AT_ONCE));
    let mut round = tokio::time::interval(EVERY);
    round.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        round.tick().await;
        let table = shared.table();
        let mut checks = tokio::task::JoinSet::new();
        for site in table.sites().filter(|site| site.up) {
            let asked = site.asked.load(Ordering::Relaxed);
            let recently = asked != 0 && now().saturating_sub(asked) < RECENTLY;
            for endpoint in site.endpoints.iter().filter(|endpoint| recently || endpoint.is_marked()) {
                let (site, endpoint, permits) = (site.clone(), endpoint.clone(), permits.clone());
                checks.spawn(async move {
                    let _permit = permits.acquire().await;
                    check(&site, &endpoint).await;
                });
            }
        }
        while checks.join_next().await.is_some() {}
    }
}

async fn check(site: &Site, endpoint: &Endpoint) {
    let stream = match tokio::time::timeout(PATIENCE, TcpStream::connect(endpoint.backend.address)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(_)) | Err(_) => return endpoint.failed(true),
    };
    // A gRPC server has no page to ask for; that it listens must do.
    let works = endpoint.protocol == Protocol::H2c
        || matches!(tokio::time::timeout(PATIENCE, ask(site, stream)).await, Ok(Some(status)) if (200..400).contains(&status.as_u16()));
    if works { endpoint.worked() } else { endpoint.failed(false) }
}

async fn ask(site: &Site, stream: TcpStream) -> Option<StatusCode> {
    let (mut sender, driver) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.ok()?;
    let driver = tokio::spawn(driver);
    let request =
        Request::get(site.route.health.as_str()).header(HOST, site.route.host.as_str()).header(USER_AGENT, "adt-health");
    let answer = sender.send_request(request.body(Empty::<Bytes>::new()).ok()?).await;
    driver.abort();
    answer.ok().map(|answer| answer.status())
}
