//! Runs independent work on all processors.

use std::sync::{Mutex, PoisonError};

/// Calls `work` with each item, on as many threads as there are processors, and returns the
/// results.
///
/// Items start in their order. Results come in the order in which they were ready.
///
/// # Panics
/// If `work` panics, after the calls that had started have ended.
pub fn map<T: Send, R: Send>(items: Vec<T>, work: impl Fn(T) -> R + Sync) -> Vec<R> {
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(items.len());
    let (left, done) = (Mutex::new(items.into_iter()), Mutex::new(Vec::new()));
    let next = || left.lock().unwrap_or_else(PoisonError::into_inner).next();
    let run = || {
        while let Some(item) = next() {
            let result = work(item);
            done.lock().unwrap_or_else(PoisonError::into_inner).push(result);
        }
    };
    std::thread::scope(|scope| (0..workers).for_each(|_| drop(scope.spawn(run))));
    done.into_inner().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_item_is_worked_on_once() {
        let mut results = map((0..100).collect(), |number| number * 2);
        results.sort_unstable();
        assert_eq!(results, (0..100).map(|number| number * 2).collect::<Vec<_>>());
        assert!(map(Vec::<u8>::new(), |number| number).is_empty());
    }

    #[test]
    #[should_panic(expected = "a scoped thread panicked")]
    fn a_panic_is_not_lost() {
        map(vec![1], |_| panic!("one of the workers"));
    }
}
