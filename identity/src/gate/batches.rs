//! Lookups of a storm, asked together: those that arrive while requests are under way are in the
//! next one. A fleet that reconnects at once is some dozens of requests, in place of a queue that
//! is longer than a client waits.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::LOOKUP;
use crate::registry::Error;

/// Requests at one time: one that hangs does not hold up all others.
const REQUESTS: usize = 4;

type Answer<T> = Result<T, Error>;

/// Lookups by a key that wait for a request.
#[derive(Debug)]
pub(super) struct Batches<K, T> {
    state: Arc<Mutex<State<K, T>>>,
    /// Keys of one request.
    most: usize,
}

#[derive(Debug)]
struct State<K, T> {
    waiting: VecDeque<(K, oneshot::Sender<Answer<T>>)>,
    requests: usize,
}

/// A place among the requests.
struct Place<K, T> {
    state: Arc<Mutex<State<K, T>>>,
    is_left: bool,
}

type Senders<T> = Vec<oneshot::Sender<Answer<T>>>;

impl<K: Eq + Hash, T> Place<K, T> {
    /// Takes the lookups of the next request, without those whose callers are gone. When none
    /// waits, leaves the place in the same step: a lookup that comes then takes it.
    fn take(&mut self, most: usize) -> Option<HashMap<K, Senders<T>>> {
        let mut batch: HashMap<K, Senders<T>> = HashMap::new();
        let mut state = self.state.lock();
        while batch.len() < most
            && let Some((key, sender)) = state.waiting.pop_front()
        {
            if !sender.is_closed() {
                batch.entry(key).or_default().push(sender);
            }
        }
        if batch.is_empty() {
            state.requests -= 1;
            self.is_left = true;
            return None;
        }
        Some(batch)
    }
}

impl<K, T> Drop for Place<K, T> {
    fn drop(&mut self) {
        if !self.is_left {
            self.state.lock().requests -= 1;
        }
    }
}

impl<K: Eq + Hash + Send + 'static, T: Clone + Send + 'static> Batches<K, T> {
    pub(super) fn new(most: usize) -> Self {
        let state = State { waiting: VecDeque::new(), requests: 0 };
        Self { state: Arc::new(Mutex::new(state)), most }
    }

    /// Waits for the answer for a key. `ask` returns an answer for each of some keys, in their
    /// order. A request begins after this call, so that it sees what was written before.
    ///
    /// # Errors
    /// That of the answer; [`Error::Unavailable`] when there is none in time.
    pub(super) async fn get<F, A>(&self, key: K, ask: F) -> Answer<T>
    where
        F: Fn(Vec<K>) -> A + Send + 'static,
        A: Future<Output = Vec<Answer<T>>> + Send + 'static,
    {
        let (sender, answer) = oneshot::channel();
        let begins = {
            let mut state = self.state.lock();
            state.waiting.push_back((key, sender));
            let begins = state.requests < REQUESTS;
            state.requests += usize::from(begins);
            begins
        };
        if begins {
            // A caller that goes away must not take the requests of others with it.
            let place = Place { state: Arc::clone(&self.state), is_left: false };
            tokio::spawn(ask_all(place, self.most, ask));
        }
        answer.await.unwrap_or_else(|_| Err(Error::Unavailable("the lookup was given up".into())))
    }
}

/// Asks for what waits until nothing does.
async fn ask_all<K, T, F, A>(mut place: Place<K, T>, most: usize, ask: F)
where
    K: Eq + Hash,
    T: Clone,
    F: Fn(Vec<K>) -> A,
    A: Future<Output = Vec<Answer<T>>>,
{
    while let Some(batch) = place.take(most) {
        let (keys, senders): (Vec<K>, Vec<Senders<T>>) = batch.into_iter().unzip();
        let late = || vec![Err(Error::Unavailable("the registry does not answer in time".into())); senders.len()];
        let answers = tokio::time::timeout(LOOKUP, ask(keys)).await.unwrap_or_else(|_| late());
        for (senders, answer) in senders.into_iter().zip(answers) {
            for sender in senders {
                // The caller may be gone.
                sender.send(answer.clone()).ok();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use futures::future::BoxFuture;

    use super::*;

    type Counted = (Arc<AtomicUsize>, Arc<AtomicUsize>);

    /// Answers each key with itself after 50 ms, and counts requests and keys.
    fn echo((requests, keys): Counted) -> impl Fn(Vec<u32>) -> BoxFuture<'static, Vec<Answer<u32>>> {
        move |asked| {
            requests.fetch_add(1, Ordering::Relaxed);
            keys.fetch_add(asked.len(), Ordering::Relaxed);
            Box::pin(async move {
                tokio::time::sleep(Duration::from_millis(50)).await;
                asked.into_iter().map(Ok).collect()
            })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn lookups_of_a_storm_are_few_requests_and_each_gets_its_answer_in_time() {
        let (batches, counted) = (Batches::new(500), Counted::default());
        let begun = tokio::time::Instant::now();
        let all = (0..10_000_u32).map(|key| batches.get(key, echo(counted.clone())));
        for (key, answer) in futures::future::join_all(all).await.into_iter().enumerate() {
            assert_eq!(answer, Ok(key as u32));
        }
        assert!(begun.elapsed() < LOOKUP / 5, "{:?}", begun.elapsed());
        assert!(counted.0.load(Ordering::Relaxed) <= 4 + 20);
        assert_eq!(batches.get(7, echo(counted)).await, Ok(7), "the places are free again");
        assert_eq!(batches.state.lock().requests, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn equal_keys_are_asked_once_and_those_of_callers_that_are_gone_not_at_all() {
        let (batches, counted) = (Arc::new(Batches::new(500)), Counted::default());
        let spawn = |key| {
            let (batches, counted) = (Arc::clone(&batches), counted.clone());
            tokio::spawn(async move { batches.get(key, echo(counted)).await })
        };
        // Each has a request of its own.
        for key in 0..REQUESTS {
            spawn(key as u32);
            while counted.0.load(Ordering::Relaxed) <= key {
                tokio::task::yield_now().await;
            }
        }
        let gone = spawn(99);
        while batches.state.lock().waiting.is_empty() {
            tokio::task::yield_now().await;
        }
        gone.abort();
        assert!(gone.await.unwrap_err().is_cancelled());
        let same = (0..100).map(|_| batches.get(50, echo(counted.clone())));
        assert!(futures::future::join_all(same).await.iter().all(|answer| *answer == Ok(50)));
        assert_eq!(counted.1.load(Ordering::Relaxed), REQUESTS + 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_hangs_or_panics_ends_with_an_error_and_holds_up_no_other() {
        let batches = Batches::<u32, u32>::new(1);
        let hung = batches.get(1, |_| std::future::pending());
        let panicked = batches.get(2, |_| async { panic!("a fault") });
        let (hung, panicked, other) = tokio::join!(hung, panicked, batches.get(3, echo(Counted::default())));
        assert!(matches!(hung, Err(Error::Unavailable(_))) && matches!(panicked, Err(Error::Unavailable(_))));
        assert_eq!(other, Ok(3));
        assert_eq!(batches.state.lock().requests, 0);
    }
}
