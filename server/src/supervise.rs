//! The parts of the process, the end of one of them, and the order in which they stop.
//!
//! Every task is critical: the first to end outside of an ordered stop, for any reason, a panic
//! included, ends the process. Parts stop in the order in which they were added, each within its
//! deadline; tasks that are still pending then are named and abandoned.

use std::collections::HashMap;
use std::future::Future;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

/// The tasks of a process.
#[derive(Default)]
pub(crate) struct Supervisor {
    tasks: JoinSet<anyhow::Result<()>>,
    running: HashMap<Id, Task>,
    parts: Vec<Part>,
}

#[derive(Debug, Clone)]
struct Task {
    name: &'static str,
    part: &'static str,
}

struct Part {
    name: &'static str,
    deadline: Duration,
    stop: CancellationToken,
    finish: Option<BoxFuture<'static, anyhow::Result<()>>>,
}

/// How the supervision ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EndError {
    /// A task ended although no stop was requested.
    #[error("{task} has ended: {reason}")]
    Ended {
        /// Its name.
        task: &'static str,
        /// Its error, or `it returned`.
        reason: String,
    },
    /// Parts that did not stop in time or not in order.
    #[error("stopped, but not in order: {0}")]
    Unclean(String),
}

impl Supervisor {
    /// Adds a part, which stops after those added before it. Returns the token that stops its
    /// tasks.
    pub(crate) fn part(&mut self, name: &'static str, deadline: Duration) -> CancellationToken {
        let stop = CancellationToken::new();
        self.part_that_ends_with(name, deadline, stop.clone());
        stop
    }

    /// As [`Supervisor::part`], for tasks that have their token already.
    pub(crate) fn part_that_ends_with(&mut self, name: &'static str, deadline: Duration, stop: CancellationToken) {
        debug_assert!(self.parts.iter().all(|part| part.name != name), "{name} was added before");
        self.parts.push(Part { name, deadline, stop, finish: None });
    }

    /// Runs a task of a part that was added.
    pub(crate) fn spawn(
        &mut self,
        part: &'static str,
        name: &'static str,
        task: impl Future<Output = anyhow::Result<()>> + Send + 'static,
    ) {
        debug_assert!(self.parts.iter().any(|p| p.name == part), "{part} was added");
        let handle = self.tasks.spawn(task);
        self.running.insert(handle.id(), Task { name, part });
    }

    /// Sets the last step of a part, after its tasks have ended.
    pub(crate) fn finish(
        &mut self,
        part: &'static str,
        finish: impl Future<Output = anyhow::Result<()>> + Send + 'static,
    ) {
        let found = self.parts.iter_mut().find(|p| p.name == part).expect("the part was added");
        found.finish = Some(Box::pin(finish));
    }

    /// Runs until `signal` or until a task ends, then stops part after part.
    ///
    /// # Errors
    /// [`EndError::Ended`] names the task that ended by itself; [`EndError::Unclean`] the parts
    /// that failed to stop.
    pub(crate) async fn run(mut self, signal: impl Future<Output = &'static str>) -> Result<(), EndError> {
        let mut signal = std::pin::pin!(signal);
        let first = tokio::select! {
            name = &mut signal => {
                tracing::info!(signal = name, "stopping");
                None
            }
            Some(ended) = self.tasks.join_next_with_id() => {
                let (task, outcome) = self.take(ended);
                let reason = outcome.err().unwrap_or_else(|| "it returned".to_owned());
                tracing::error!(task = task.name, reason, "a critical task has ended; stopping");
                Some(EndError::Ended { task: task.name, reason })
            }
        };
        let unclean = self.stop().await;
        self.tasks.shutdown().await;
        match first {
            Some(error) => Err(error),
            None if unclean.is_empty() => Ok(()),
            None => Err(EndError::Unclean(unclean.join("; "))),
        }
    }

    async fn stop(&mut self) -> Vec<String> {
        let mut unclean = Vec::new();
        for mut part in std::mem::take(&mut self.parts) {
            let begun = tokio::time::Instant::now();
            part.stop.cancel();
            let drained = tokio::time::timeout(part.deadline, self.drain(&part, &mut unclean)).await.is_ok();
            let rest = part.deadline.saturating_sub(begun.elapsed());
            let finished = match part.finish.take() {
                Some(finish) if drained => match tokio::time::timeout(rest, finish).await {
                    Ok(Ok(())) => true,
                    Ok(Err(error)) => {
                        unclean.push(format!("{}: {error:#}", part.name));
                        true
                    }
                    Err(_) => false,
                },
                _ => true,
            };
            if drained && finished {
                tracing::debug!(part = part.name, milliseconds = begun.elapsed().as_millis(), "stopped");
                continue;
            }
            let pending = self.pending(part.name);
            let names = if pending.is_empty() { part.name.to_owned() } else { pending.join(", ") };
            tracing::warn!(part = part.name, pending = names, "not stopped within its deadline");
            unclean.push(format!("{names} did not stop within {:?}", part.deadline));
        }
        unclean
    }

    /// Waits until no task of the part runs.
    async fn drain(&mut self, part: &Part, unclean: &mut Vec<String>) {
        while !self.pending(part.name).is_empty() {
            let Some(ended) = self.tasks.join_next_with_id().await else { return };
            let (task, outcome) = self.take(ended);
            if let Err(reason) = outcome {
                tracing::error!(task = task.name, reason, "failed at the stop");
                unclean.push(format!("{}: {reason}", task.name));
            }
        }
    }

    fn pending(&self, part: &str) -> Vec<&'static str> {
        let mut names: Vec<_> = self.running.values().filter(|t| t.part == part).map(|t| t.name).collect();
        names.sort_unstable();
        names
    }

    fn take(&mut self, ended: Result<(Id, anyhow::Result<()>), JoinError>) -> (Task, Result<(), String>) {
        let (id, outcome) = match ended {
            Ok((id, Ok(()))) => (id, Ok(())),
            Ok((id, Err(error))) => (id, Err(format!("{error:#}"))),
            Err(error) => (error.id(), Err(panic_message(error))),
        };
        let task = self.running.remove(&id).unwrap_or(Task { name: "a task", part: "" });
        (task, outcome)
    }
}

fn panic_message(error: JoinError) -> String {
    match error.try_into_panic() {
        Ok(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref().copied());
            format!("it panicked: {}", text.unwrap_or("without a message"))
        }
        Err(_) => "it was cancelled".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::Mutex;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn until(
        stop: CancellationToken,
        log: &Arc<Mutex<Vec<&'static str>>>,
        name: &'static str,
    ) -> BoxFuture<'static, anyhow::Result<()>> {
        let log = Arc::clone(log);
        Box::pin(async move {
            stop.cancelled().await;
            log.lock().unwrap().push(name);
            Ok(())
        })
    }

    #[tokio::test]
    async fn parts_stop_in_the_order_in_which_they_were_added_each_with_its_finish() {
        let log = Arc::new(Mutex::new(Vec::new()));
        let mut supervisor = Supervisor::default();
        let first = supervisor.part("first", LONG);
        let second = supervisor.part("second", LONG);
        supervisor.spawn("second", "b", until(second, &log, "b"));
        supervisor.spawn("first", "a", until(first.clone(), &log, "a"));
        let finish = until(first, &log, "a's end");
        supervisor.finish("first", finish);
        supervisor.run(async { "SIGTERM" }).await.unwrap();
        assert_eq!(*log.lock().unwrap(), ["a", "a's end", "b"]);
    }

    #[tokio::test]
    async fn a_task_that_ends_by_itself_ends_everything_by_name() {
        for (outcome, reason) in [(Ok(()), "it returned"), (Err(anyhow::anyhow!("disk gone")), "disk gone")] {
            let log = Arc::new(Mutex::new(Vec::new()));
            let mut supervisor = Supervisor::default();
            let stop = supervisor.part("part", LONG);
            supervisor.spawn("part", "other", until(stop, &log, "other"));
            supervisor.spawn("part", "broken", async move { outcome });
            let error = supervisor.run(std::future::pending()).await.unwrap_err();
            assert_eq!(error.to_string(), format!("broken has ended: {reason}"));
            assert_eq!(*log.lock().unwrap(), ["other"], "the others are stopped in order");
        }
    }

    #[tokio::test]
    async fn a_panic_is_an_end_with_its_message() {
        let mut supervisor = Supervisor::default();
        supervisor.part("part", LONG);
        supervisor.spawn("part", "broken", async { panic!("out of {}", "cheese") });
        let error = supervisor.run(std::future::pending()).await.unwrap_err();
        assert_eq!(error.to_string(), "broken has ended: it panicked: out of cheese");
    }

    #[tokio::test(start_paused = true)]
    async fn a_part_that_does_not_stop_is_named_and_abandoned() {
        let log = Arc::new(Mutex::new(Vec::new()));
        let mut supervisor = Supervisor::default();
        supervisor.part("stuck part", Duration::from_secs(1));
        supervisor.spawn("stuck part", "stuck", std::future::pending());
        let stop = supervisor.part("good part", LONG);
        supervisor.spawn("good part", "good", until(stop, &log, "good"));
        let error = supervisor.run(async { "SIGTERM" }).await.unwrap_err();
        assert!(matches!(&error, EndError::Unclean(text) if text.contains("stuck did not stop within 1s")), "{error}");
        assert_eq!(*log.lock().unwrap(), ["good"]);
    }
}
