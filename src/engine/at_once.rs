//! Work that is done on several threads at once: how their failures are told together, and when none should begin any more.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::model::{Failure, Kind};

/// A panic on a thread is a bug that must not pass for success.
pub(in crate::engine) fn join<T>(handle: std::thread::ScopedJoinHandle<'_, T>) -> T {
    handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// The same work for each, on a thread of its own.
pub(in crate::engine) fn parallel<T: Send, R: Send>(all: impl IntoIterator<Item = T>, work: impl Fn(T) -> R + Sync) -> Vec<R> {
    let work = &work;
    std::thread::scope(|scope| {
        let each: Vec<_> = all.into_iter().map(|one| scope.spawn(move || work(one))).collect();
        each.into_iter().map(join).collect()
    })
}

/// What all of them gave, or what went wrong with some, told together.
pub(in crate::engine) fn gather<T>(results: impl IntoIterator<Item = Result<T, Failure>>) -> Result<Vec<T>, Failure> {
    let (mut done, mut failures) = (Vec::new(), Vec::new());
    for result in results {
        match result {
            Ok(one) => done.push(one),
            Err(failure) => failures.push(failure),
        }
    }
    if failures.is_empty() { Ok(done) } else { Err(combine(failures)) }
}

/// Both of it.
pub(in crate::engine) fn for_each<T: Send, R: Send>(
    all: impl IntoIterator<Item = T>,
    work: impl Fn(T) -> Result<R, Failure> + Sync,
) -> Result<Vec<R>, Failure> {
    gather(parallel(all, work))
}

/// One failure stands for itself; several are told together, and where all are of a kind, so is the whole.
pub(in crate::engine) fn combine(mut failures: Vec<Failure>) -> Failure {
    if failures.len() == 1 {
        return failures.remove(0);
    }
    let first = failures[0].kind;
    let kind = if failures.iter().all(|failure| failure.kind == first) { first } else { Kind::Partial };
    let mut all = Failure::new(kind, format!("finish {} parts of this", failures.len()));
    if kind == Kind::Cancelled {
        // They all end with the same words.
        all.hints = failures[0].hints.clone();
        failures.iter_mut().for_each(|part| part.hints.clear());
    }
    all.parts = failures;
    all
}

/// Whether the user asked to stop.
pub(in crate::engine) fn stopped(cancel: &AtomicBool) -> bool {
    cancel.load(Ordering::Relaxed)
}
