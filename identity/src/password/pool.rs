//! The threads that hash passwords: few, of low priority, with a bounded queue.
//!
//! A hash takes 20 ms, so that a flood of guesses would take every processor, and 19 MiB, so that
//! it would take all memory. The threads are apart from those of the process and yield to them.
//! Checks of passwords that exist come before those of names that do not: three of four.

use std::collections::VecDeque;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use argon2::Block;
use hmac::{Hmac, KeyInit, Mac};
use parking_lot::{Condvar, Mutex};
use sha2::Sha256;
use tokio::sync::oneshot;

use super::hash::{Kept, Output, Params, Salt};
use crate::CredentialId;
use crate::secret::random;

/// Hashes that may wait for each thread: about a third of a second.
const WAITING: usize = 16;
/// Of them, for names that do not exist.
const WAITING_UNKNOWN: usize = 4;
/// Of them, for one address.
const WAITING_OF_SOURCE: usize = 8;
/// One of so many hashes may be for a name that does not exist, when all are asked for.
const TURNS: usize = 4;
/// Nice value of the threads: about a tenth of the time of the others, when all have work.
const NICE: i32 = 10;

/// Hashes chosen passwords. Cheap to clone.
#[derive(Clone)]
pub struct Passwords(Arc<Handle>);

/// The last one ends the threads.
struct Handle {
    pool: Arc<Pool>,
    /// Key of the verifiers, of this start.
    key: Hmac<Sha256>,
}

#[derive(Debug)]
struct Pool {
    queue: Mutex<Queue>,
    wake: Condvar,
    threads: usize,
    /// Hashes that were made.
    #[cfg(test)]
    made: std::sync::atomic::AtomicUsize,
}

#[derive(Debug, Default)]
struct Queue {
    known: VecDeque<Job>,
    unknown: VecDeque<Job>,
    /// Hashes that were begun, counted up to [`TURNS`].
    turn: usize,
    is_closed: bool,
}

/// The kind of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lane {
    /// Of a password that exists.
    Known,
    /// Of a name that does not exist: its answer is wrong in any case, and takes as long.
    Unknown,
}

/// Too many checks wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Busy;

struct Job {
    params: Params,
    salt: Salt,
    input: [u8; 32],
    source: Option<IpAddr>,
    answer: oneshot::Sender<Output>,
}

impl fmt::Debug for Job {
    /// Without the input.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job").field("params", &self.params).field("source", &self.source).finish_non_exhaustive()
    }
}

impl fmt::Debug for Passwords {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Passwords").field(&self.0.pool.threads).finish()
    }
}

impl Queue {
    /// Takes the next job whose client still waits.
    fn pop(&mut self) -> Option<Job> {
        loop {
            let is_turn = self.turn + 1 >= TURNS;
            let (first, second) =
                if is_turn { (&mut self.unknown, &mut self.known) } else { (&mut self.known, &mut self.unknown) };
            let job = first.pop_front().or_else(|| second.pop_front())?;
            if !job.answer.is_closed() {
                self.turn = if is_turn { 0 } else { self.turn + 1 };
                return Some(job);
            }
        }
    }

    fn has_room(&mut self, lane: Lane, source: Option<IpAddr>, threads: usize) -> bool {
        let waits = |job: &Job| !job.answer.is_closed();
        let of_source = |jobs: &VecDeque<Job>| jobs.iter().filter(|job| job.source == source && waits(job)).count();
        if source.is_some() && of_source(&self.known) + of_source(&self.unknown) >= WAITING_OF_SOURCE * threads {
            return false;
        }
        let (jobs, most) = match lane {
            Lane::Known => (&mut self.known, WAITING * threads),
            Lane::Unknown => (&mut self.unknown, WAITING_UNKNOWN * threads),
        };
        if jobs.len() >= most {
            jobs.retain(waits);
        }
        jobs.len() < most
    }
}

impl Passwords {
    /// Memory of each thread while it hashes, in bytes.
    pub const MEMORY_BYTES: usize = Params::CURRENT.memory as usize * Block::SIZE;

    /// Starts threads that hash.
    ///
    /// # Errors
    /// When the system starts no thread, or has no random bytes.
    pub fn start(threads: usize) -> std::io::Result<Self> {
        let threads = threads.max(1);
        let key = Hmac::<Sha256>::new_from_slice(&random::<32>()?).expect("HMAC takes keys of any length");
        let pool = Arc::new(Pool {
            queue: Mutex::default(),
            wake: Condvar::new(),
            threads,
            #[cfg(test)]
            made: Default::default(),
        });
        let handle = Self(Arc::new(Handle { pool, key }));
        for number in 0..threads {
            let pool = Arc::clone(&handle.0.pool);
            std::thread::Builder::new().name(format!("password-{number}")).spawn(move || pool.work())?;
        }
        Ok(handle)
    }

    /// Returns a value by which the same password is recognised during this start, without a hash
    /// that costs as much as one.
    pub(crate) fn verifier(&self, id: &CredentialId, password: &[u8]) -> [u8; 32] {
        let mut mac = self.0.key.clone();
        mac.update(id.as_str().as_bytes());
        mac.update(password);
        mac.finalize().into_bytes().into()
    }

    /// Hashes an input in its turn.
    ///
    /// # Errors
    /// [`Busy`].
    pub(crate) async fn hash(
        &self,
        (lane, source): (Lane, Option<IpAddr>),
        (params, salt): (Params, Salt),
        input: [u8; 32],
    ) -> Result<Kept, Busy> {
        let (answer, answered) = oneshot::channel();
        let pool = &self.0.pool;
        {
            let mut queue = pool.queue.lock();
            if !queue.has_room(lane, source, pool.threads) {
                return Err(Busy);
            }
            let jobs = if lane == Lane::Known { &mut queue.known } else { &mut queue.unknown };
            jobs.push_back(Job { params, salt, input, source, answer });
        }
        pool.wake.notify_one();
        // A thread ends with the last handle, which is this one.
        answered.await.map(|output| Kept::new(params, salt, output)).map_err(|_| Busy)
    }

    /// Hashes under the current parameters, with a new salt.
    ///
    /// # Errors
    /// [`Busy`], also when the system has no random bytes.
    pub(crate) async fn hash_new(&self, source: Option<IpAddr>, input: [u8; 32]) -> Result<Kept, Busy> {
        let salt = random().map_err(|_| Busy)?;
        self.hash((Lane::Known, source), (Params::CURRENT, salt), input).await
    }

    /// Returns how many hashes were made.
    #[cfg(test)]
    pub(crate) fn made(&self) -> usize {
        self.0.pool.made.load(std::sync::atomic::Ordering::SeqCst)
    }

    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        let queue = self.0.pool.queue.lock();
        queue.known.len() + queue.unknown.len()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.pool.queue.lock().is_closed = true;
        self.pool.wake.notify_all();
    }
}

impl Pool {
    /// Hashes until the pool is closed. The memory is kept while hashes wait.
    fn work(&self) {
        // Of this thread alone. One that may not yield competes with the others.
        if let Err(error) = rustix::process::setpriority_process(None, NICE) {
            static WARNED: std::sync::Once = std::sync::Once::new();
            WARNED.call_once(|| {
                tracing::warn!("cannot lower the priority of the threads that hash passwords: {error}");
            });
        }
        let mut memory = Vec::new();
        while let Some(job) = self.next(&mut memory) {
            let output = job.params.hash(&job.input, &job.salt, &mut memory);
            #[cfg(test)]
            self.made.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            // The client may have gone.
            job.answer.send(output).ok();
        }
    }

    fn next(&self, memory: &mut Vec<Block>) -> Option<Job> {
        let mut queue = self.queue.lock();
        loop {
            if queue.is_closed {
                return None;
            }
            if let Some(job) = queue.pop() {
                return Some(job);
            }
            *memory = Vec::new();
            self.wake.wait(&mut queue);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    /// About a tenth of a second and more: threads are busy meanwhile.
    const SLOW: Params = Params { memory: 19_456, passes: 16 };

    fn source(last: u8) -> Option<IpAddr> {
        Some([10, 0, 0, last].into())
    }

    #[test]
    fn one_turn_of_four_is_of_names_that_do_not_exist() {
        let mut queue = Queue::default();
        let mut clients = Vec::new();
        let mut job = |lane: u8| {
            let (answer, client) = oneshot::channel();
            clients.push(client);
            Job { params: SLOW, salt: [0; 16], input: [lane; 32], source: None, answer }
        };
        queue.known.extend((0..6).map(|_| job(b'k')));
        queue.unknown.extend((0..3).map(|_| job(b'u')));
        let order: String = std::iter::from_fn(|| queue.pop()).map(|job| char::from(job.input[0])).collect();
        assert_eq!(order, "kkkukkkuu");
        // Neither waits for the other to come.
        queue.unknown.push_back(job(b'u'));
        assert_eq!(queue.pop().map(|job| job.input[0]), Some(b'u'));
    }

    #[tokio::test]
    async fn a_full_queue_refuses_at_once_and_each_lane_and_source_has_its_part() {
        let passwords = Passwords::start(1).unwrap();
        let hash = |lane, source| {
            let passwords = passwords.clone();
            tokio::spawn(async move { passwords.hash((lane, source), (SLOW, [0; 16]), [0; 32]).await })
        };
        let wait = async |count: usize| {
            let begun = Instant::now();
            while passwords.waiting() != count {
                assert!(begun.elapsed() < Duration::from_secs(10), "{} wait", passwords.waiting());
                tokio::task::yield_now().await;
            }
        };
        let busy =
            async |lane, source| matches!(passwords.hash((lane, source), (SLOW, [0; 16]), [0; 32]).await, Err(Busy));
        let mut tasks = vec![hash(Lane::Known, None)];
        // The thread is at work.
        let begun = Instant::now();
        while passwords.waiting() > 0 || begun.elapsed() < Duration::from_millis(5) {
            tokio::task::yield_now().await;
        }
        tasks.extend((0..WAITING_UNKNOWN).map(|_| hash(Lane::Unknown, source(1))));
        wait(WAITING_UNKNOWN).await;
        assert!(busy(Lane::Unknown, source(2)).await, "names that do not exist have a quarter");
        tasks.extend((WAITING_UNKNOWN..WAITING_OF_SOURCE).map(|_| hash(Lane::Known, source(1))));
        wait(WAITING_OF_SOURCE).await;
        assert!(busy(Lane::Known, source(1)).await, "an address has a half");
        // Clients that have gone give their places back.
        tasks.iter().for_each(tokio::task::JoinHandle::abort);
        for task in tasks {
            assert!(task.await.unwrap_err().is_cancelled());
        }
        let mut tasks: Vec<_> = (0..WAITING).map(|last| hash(Lane::Known, source(last as u8))).collect();
        while tasks.iter().all(|task| !task.is_finished()) && !busy(Lane::Known, source(200)).await {
            tokio::task::yield_now().await;
        }
        tasks.drain(..).for_each(|task| task.abort());
    }
}
