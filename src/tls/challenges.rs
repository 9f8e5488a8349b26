//! What an authority of the world looks for at a name to find out whether it is ours (RFC 8555 8.3).

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

/// Answers by token. Both are public, and worth nothing to anybody without the account's key.
#[derive(Debug, Default)]
pub struct Challenges(RwLock<HashMap<String, String>>);

/// An answer that is there for as long as this is.
#[must_use]
pub struct Posted {
    all: Arc<Challenges>,
    token: String,
}

impl Challenges {
    pub fn post(self: &Arc<Self>, token: &str, answer: &str) -> Posted {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(token.to_owned(), answer.to_owned());
        Posted { all: self.clone(), token: token.to_owned() }
    }

    pub fn answer(&self, token: &str) -> Option<String> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(token).cloned()
    }
}

impl Drop for Posted {
    fn drop(&mut self) {
        self.all.0.write().unwrap_or_else(PoisonError::into_inner).remove(&self.token);
    }
}
