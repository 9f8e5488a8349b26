//! A name and a password for a site in the world, by HTTP's Basic scheme (RFC 7617).
//!
//! ```text
//! Authorization ─▶ known on this thread ──────────────────────────────────▶ served
//!               └▶ has the client guesses left? ─▶ bcrypt, a few at a time ─▶ known from now on
//! ```
//! bcrypt is slow, so that nobody finds a password from its hash: it is asked once for each password and thread, beside the
//! thread that serves, and a client that guesses has ten guesses and then one in six seconds. What is remembered of a password is
//! a digest under a key that ends with this process.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::header::{AUTHORIZATION, HeaderMap};
use ring::hmac;
use ring::rand::SystemRandom;
use tokio::sync::Semaphore;

use super::rate::{Rates, Supply};
use crate::shares::network;

/// Of one client, at all sites.
const GUESSES: Supply = Supply { every: Duration::from_secs(6), most: 10 };

/// For others' passwords.
const PATIENCE: Duration = Duration::from_secs(10);

/// Passwords that a thread knows; with one more it begins anew.
const KNOWN: usize = 1024;

thread_local! {
    static RIGHT: RefCell<HashSet<[u8; 32]>> = RefCell::default();
}

pub struct Passwords {
    key: hmac::Key,
    guesses: Rates<IpAddr>,
    at_once: Arc<Semaphore>,
}

/// Why somebody is not let in.
#[derive(Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is no name and password, or it is none of the site's.
    Unknown,
    /// Too many of the client's were wrong.
    Guesses(Duration),
    /// Too many others are looked at.
    Busy,
}

impl Passwords {
    pub fn new() -> Self {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new()).expect("the kernel has random numbers");
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self { key, guesses: Rates::default(), at_once: Arc::new(Semaphore::new((cores / 2).max(1))) }
    }

    /// Whether a request may see a site of these users.
    pub async fn check(&self, users: &BTreeMap<String, String>, headers: &HeaderMap, client: IpAddr) -> Result<(), Refusal> {
        let said = said(headers).ok_or(Refusal::Unknown)?;
        let (name, password) = said.split_at(said.iter().position(|byte| *byte == b':').ok_or(Refusal::Unknown)?);
        let user = users.iter().find(|(user, _)| user.as_bytes() == name);
        // Who is no user is told so as late as who is one, so that nobody finds names out by that.
        let (_, hash) = user.or(users.iter().next()).ok_or(Refusal::Unknown)?;
        let password = password[1..].to_vec();
        let digest = self.digest(hash, &password);
        let is_known = || user.is_some() && RIGHT.with_borrow(|right| right.contains(&digest));
        if is_known() {
            return Ok(());
        }
        let guesses = self.guesses.of(network(client));
        guesses.look(GUESSES).map_err(Refusal::Guesses)?;
        let turn = tokio::time::timeout(PATIENCE, self.at_once.clone().acquire_owned()).await;
        let turn = turn.map_err(|_| Refusal::Busy)?.expect("it is never closed");
        // A page's many requests come together: the first one of them is enough.
        if is_known() {
            return Ok(());
        }
        guesses.take(GUESSES).map_err(Refusal::Guesses)?;
        let hash = hash.clone();
        let verified = tokio::task::spawn_blocking(move || {
            // Also where the client left: until it is over, others wait.
            let _turn = turn;
            bcrypt::verify(password, &hash).unwrap_or(false)
        });
        if !verified.await.unwrap_or(false) || user.is_none() {
            return Err(Refusal::Unknown);
        }
        guesses.give_back(GUESSES);
        RIGHT.with_borrow_mut(|right| {
            if right.len() >= KNOWN {
                right.clear();
            }
            right.insert(digest);
        });
        Ok(())
    }

    /// A password that was changed has another hash, and so another digest.
    fn digest(&self, hash: &str, password: &[u8]) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(hash.as_bytes());
        context.update(b"\0");
        context.update(password);
        context.sign().as_ref().try_into().expect("SHA-256 has 32 bytes")
    }
}

/// `name:password`
fn said(headers: &HeaderMap) -> Option<Vec<u8>> {
    let mut all = headers.get_all(AUTHORIZATION).iter();
    let (value, more) = (all.next()?.as_bytes(), all.next());
    let (scheme, word) = value.split_at_checked(6)?;
    if more.is_some() || !scheme.eq_ignore_ascii_case(b"basic ") {
        return None;
    }
    STANDARD.decode(word.trim_ascii()).ok()
}
