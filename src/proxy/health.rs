//! Asks backends how they are, where that matters: sites that somebody used just now, and backends that are marked down.

use std::collections::HashMap;
use std::net::Ipv4Addr;
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
use tokio::task::{JoinHandle, JoinSet};

use super::shared::Shared;
use super::table::{Endpoint, Site, Table, now};
use crate::model::Protocol;

const EVERY: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(2);
/// A site is looked after for this long after its last request.
const RECENTLY: u64 = 30_000;
const AT_ONCE: usize = 256;
/// Of one environment.
const AT_ONCE_EACH: usize = 16;

/// One environment's machines that don't answer hold up no other's.
pub async fn watch(shared: Arc<Shared>) {
    let permits = Arc::new(Semaphore::new(AT_ONCE));
    let mut running: HashMap<Ipv4Addr, JoinHandle<()>> = HashMap::new();
    let mut round = tokio::time::interval(EVERY);
    round.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        round.tick().await;
        running.retain(|_, round| !round.is_finished());
        for (gateway, checks) in due(&shared.table()) {
            running.entry(gateway).or_insert_with(|| tokio::spawn(environment(checks, permits.clone())));
        }
    }
}

type Checks = Vec<(Arc<Site>, Arc<Endpoint>)>;

fn due(table: &Table) -> HashMap<Ipv4Addr, Checks> {
    let mut due: HashMap<_, Checks> = HashMap::new();
    for site in table.sites().filter(|site| site.up) {
        let asked = site.asked.load(Ordering::Relaxed);
        let recently = asked != 0 && now().saturating_sub(asked) < RECENTLY;
        for endpoint in site.endpoints.iter().filter(|endpoint| recently || endpoint.is_marked()) {
            due.entry(site.gateway).or_default().push((site.clone(), endpoint.clone()));
        }
    }
    due
}

async fn environment(checks: Checks, permits: Arc<Semaphore>) {
    let own = Arc::new(Semaphore::new(AT_ONCE_EACH));
    let mut running = JoinSet::new();
    for (site, endpoint) in checks {
        let (permits, own) = (permits.clone(), own.clone());
        running.spawn(async move {
            let _own = own.acquire().await;
            let _permit = permits.acquire().await;
            check(&site, &endpoint).await;
        });
    }
    running.join_all().await;
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
