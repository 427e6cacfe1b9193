//! The signing of checkpoints, and their way to the targets.
//!
//! A checkpoint is kept in a file before its target gets it, and marked when it has: after a crash
//! the same one is handed over again. While a target is away there is at most one for each tenant;
//! the next one covers all events since. Nothing waits for a target but its own checkpoints.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use model::{Clock, Nanos};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::{CheckpointKey, CheckpointKeyError, CheckpointTarget, SignedCheckpoint};
use crate::registry::{AuditRange, Checkpoint, CheckpointFile, HeldCheckpoint, Registry};

/// Longest time between two looks at the ends of the chains.
const PERIOD: Duration = Duration::from_secs(5);
/// Longest time between two tries of a target that refuses.
const MAX_PAUSE: Duration = Duration::from_secs(300);
/// Ends of chains that are read at one time.
const HEADS: usize = 1000;
/// Checkpoints that are handed over at one time.
const BATCH: usize = 500;

/// The pace of checkpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckpointOptions {
    /// Time after which the end of a chain that has moved is signed.
    pub interval: Duration,
    /// New events after which it is signed earlier.
    pub events: u64,
}

impl Default for CheckpointOptions {
    fn default() -> Self {
        Self { interval: Duration::from_secs(60), events: 1000 }
    }
}

/// The state of a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetStatus {
    /// `folder` or `webhook`.
    pub kind: &'static str,
    /// Its name for operators.
    pub target: String,
    /// Checkpoints that it was given since the start.
    pub delivered: u64,
    /// Time at which the last of them was signed.
    pub newest: Option<Nanos>,
    /// The reason why it has not got all of them.
    pub problem: Option<String>,
    /// Tenants whose chains were altered: nothing is signed of them.
    pub altered: Vec<String>,
}

/// Signs checkpoints, and hands them to targets.
#[derive(Debug)]
pub struct Checkpoints {
    registry: Arc<dyn Registry>,
    clock: Arc<dyn Clock>,
    /// The file of the key, which is read for each use: it may be replaced.
    key: PathBuf,
    file: Arc<CheckpointFile>,
    options: CheckpointOptions,
    targets: Vec<Target>,
}

#[derive(Debug)]
struct Target {
    to: CheckpointTarget,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    signer: String,
    /// The newest checkpoint of each tenant; `None` until they were read.
    held: Option<HashMap<String, HeldCheckpoint>>,
    /// Tenants whose chains were altered, with the faults.
    altered: BTreeMap<String, String>,
    problem: Option<String>,
    delivered: u64,
    newest: Option<Nanos>,
}

impl Target {
    fn state(&self, tenant: &str) -> Option<HeldCheckpoint> {
        self.state.lock().held.as_ref()?.get(tenant).cloned()
    }

    /// Notes a problem, and logs it when it is a new one.
    fn report(&self, problem: Option<String>) {
        let mut state = self.state.lock();
        if state.problem == problem {
            return;
        }
        let target = self.to.shown();
        match &problem {
            Some(problem) => tracing::error!(target, problem, "checkpoints of the audit are not handed over"),
            None => tracing::info!(target, "checkpoints of the audit are handed over again"),
        }
        state.problem = problem;
    }
}

impl Checkpoints {
    /// Signs the chains of a registry with the key of the file `key`. What was signed is kept in
    /// the file `file`, which is made when there are targets.
    pub fn new(
        registry: Arc<dyn Registry>,
        clock: Arc<dyn Clock>,
        key: PathBuf,
        file: PathBuf,
        options: CheckpointOptions,
        targets: Vec<CheckpointTarget>,
    ) -> Self {
        let targets = targets.into_iter().map(|to| Target { to, state: Mutex::default() }).collect();
        Self { registry, clock, key, file: Arc::new(CheckpointFile::new(file)), options, targets }
    }

    /// Returns the key.
    ///
    /// # Errors
    /// [`CheckpointKeyError`].
    pub fn key(&self) -> Result<CheckpointKey, CheckpointKeyError> {
        let cure = "`weir audit key` makes a new one, and prints its public key";
        let missing = || CheckpointKeyError::Missing { path: self.key.clone(), cure };
        CheckpointKey::read(&self.key)?.ok_or_else(missing)
    }

    /// Signs the end of a chain that was checked, for a caller.
    ///
    /// # Errors
    /// [`CheckpointKeyError`].
    pub fn sign(&self, tenant: &str, point: Checkpoint) -> Result<(SignedCheckpoint, [u8; 32]), CheckpointKeyError> {
        let key = self.key()?;
        Ok((SignedCheckpoint::sign(&key, "", tenant, point, self.clock.now(), None), key.public()))
    }

    /// Returns the newest checkpoint of a tenant that each target was given.
    pub fn newest(&self, tenant: &str) -> Vec<SignedCheckpoint> {
        let held = self.targets.iter().filter_map(|target| target.state(tenant));
        held.filter(|held| held.is_delivered).map(|held| held.checkpoint).collect()
    }

    /// Returns the state of each target.
    pub fn status(&self) -> Vec<TargetStatus> {
        let of = |target: &Target| {
            let state = target.state.lock();
            TargetStatus {
                kind: target.to.kind(),
                target: target.to.shown(),
                delivered: state.delivered,
                newest: state.newest,
                problem: state.problem.clone(),
                altered: state.altered.iter().map(|(tenant, fault)| format!("{tenant}: {fault}")).collect(),
            }
        };
        self.targets.iter().map(of).collect()
    }

    /// Signs and hands over until it is stopped.
    pub async fn run(&self, stop: CancellationToken) {
        let targets = self.targets.iter().map(|target| self.follow(target, &stop));
        futures::future::join_all(targets).await;
    }

    async fn follow(&self, target: &Target, stop: &CancellationToken) {
        let period = PERIOD.min(self.options.interval);
        let mut pause = period;
        loop {
            let stepped = tokio::select! {
                stepped = self.step(target) => stepped,
                () = stop.cancelled() => return,
            };
            pause = if stepped.is_ok() { period } else { (pause * 2).min(MAX_PAUSE) };
            target.report(stepped.err());
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Signs what is due for each target once.
    #[cfg(test)]
    pub(crate) async fn step_all(&self) {
        for target in &self.targets {
            let stepped = self.step(target).await;
            target.report(stepped.err());
        }
    }

    /// Hands over what was signed before, then signs the chains that are due.
    async fn step(&self, target: &Target) -> Result<(), String> {
        self.open(target).await?;
        let left: Vec<HeldCheckpoint> = {
            let state = target.state.lock();
            let held = state.held.iter().flat_map(HashMap::values);
            held.filter(|held| !held.is_delivered).cloned().collect()
        };
        for part in left.chunks(BATCH) {
            self.deliver(target, part.to_vec()).await?;
        }
        let mut after = String::new();
        loop {
            let heads = self.registry.audit_heads(&after, HEADS).await.map_err(|error| error.to_string())?;
            let Some((last, _)) = heads.last() else { return Ok(()) };
            after.clone_from(last);
            let mut signed = Vec::new();
            for (tenant, head) in heads {
                signed.extend(self.sign_next(target, &tenant, head).await?);
                if signed.len() >= BATCH {
                    self.hand_over(target, std::mem::take(&mut signed)).await?;
                }
            }
            self.hand_over(target, signed).await?;
        }
    }

    /// Reads what was signed before.
    async fn open(&self, target: &Target) -> Result<(), String> {
        if target.state.lock().held.is_some() {
            return Ok(());
        }
        let key = target.to.key();
        let (signer, held) = self.in_file(move |file| Ok((file.signer(&key)?, file.all(&key)?))).await?;
        let mut state = target.state.lock();
        state.newest = held.values().filter(|held| held.is_delivered).map(|held| held.checkpoint.time).max();
        (state.signer, state.held) = (signer, Some(held));
        Ok(())
    }

    async fn in_file<T: Send + 'static>(
        &self,
        work: impl FnOnce(&CheckpointFile) -> crate::registry::Result<T> + Send + 'static,
    ) -> Result<T, String> {
        let file = Arc::clone(&self.file);
        let done = tokio::task::spawn_blocking(move || work(&file)).await;
        done.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
    }

    /// Returns the next checkpoint of a chain if it is due. The events since the last one are
    /// checked first: no chain that was altered is signed.
    async fn sign_next(
        &self,
        target: &Target,
        tenant: &str,
        head: Checkpoint,
    ) -> Result<Option<SignedCheckpoint>, String> {
        let last = target.state(tenant).map(|held| held.checkpoint);
        let now = self.clock.now();
        if !self.is_due(last.as_ref(), head, now) {
            return Ok(None);
        }
        let from = last.as_ref().map(SignedCheckpoint::point).unwrap_or_default();
        let range = AuditRange { from, ..AuditRange::default() };
        let report = self.registry.check_audit(tenant, &range).await.map_err(|error| error.to_string())?;
        if let Some(fault) = report.fault {
            let mut state = target.state.lock();
            if !state.altered.contains_key(tenant) {
                tracing::error!(tenant, %fault, "the audit was altered: its end is not signed");
            }
            state.altered.insert(tenant.to_owned(), fault.to_string());
            return Ok(None);
        }
        let signer = {
            let mut state = target.state.lock();
            state.altered.remove(tenant);
            state.signer.clone()
        };
        if report.verified.sequence <= from.sequence {
            return Ok(None);
        }
        let key = self.key().map_err(|error| error.to_string())?;
        Ok(Some(SignedCheckpoint::sign(&key, &signer, tenant, report.verified, now, last.as_ref())))
    }

    fn is_due(&self, last: Option<&SignedCheckpoint>, head: Checkpoint, now: Nanos) -> bool {
        let Some(last) = last else { return head.sequence > 0 };
        if last.point() == head {
            return false;
        }
        let interval = Nanos::try_from(self.options.interval.as_nanos()).unwrap_or(Nanos::MAX);
        // Behind its checkpoint, or another event in its place, or after a clock that was set back.
        head.sequence <= last.sequence
            || head.sequence - last.sequence >= self.options.events
            || !(last.time..last.time.saturating_add(interval)).contains(&now)
    }

    /// Keeps checkpoints, and hands them over.
    async fn hand_over(&self, target: &Target, signed: Vec<SignedCheckpoint>) -> Result<(), String> {
        if signed.is_empty() {
            return Ok(());
        }
        let held: Vec<_> =
            signed.into_iter().map(|checkpoint| HeldCheckpoint { checkpoint, is_delivered: false }).collect();
        self.keep(target, held.clone()).await?;
        self.deliver(target, held).await
    }

    async fn keep(&self, target: &Target, held: Vec<HeldCheckpoint>) -> Result<(), String> {
        let (key, kept) = (target.to.key(), held.clone());
        self.in_file(move |file| file.put(&key, &kept)).await?;
        let mut state = target.state.lock();
        let known = state.held.get_or_insert_default();
        known.extend(held.into_iter().map(|held| (held.checkpoint.tenant.clone(), held)));
        Ok(())
    }

    async fn deliver(&self, target: &Target, mut held: Vec<HeldCheckpoint>) -> Result<(), String> {
        let lines: Vec<String> = held.iter().map(|held| held.checkpoint.line()).collect();
        let signer = target.state.lock().signer.clone();
        target.to.deliver(&signer, &lines, |problem| target.report(Some(problem.to_owned()))).await?;
        held.iter_mut().for_each(|held| held.is_delivered = true);
        let newest = held.iter().map(|held| held.checkpoint.time).max();
        self.keep(target, held).await?;
        let mut state = target.state.lock();
        state.delivered += lines.len() as u64;
        state.newest = state.newest.max(newest);
        Ok(())
    }
}
