//! The writer: one script for each frame, retried until the server responds.

use std::sync::Arc;
use std::time::{Duration, Instant};

use model::Nanos;
use redis::RedisResult;
use tokio::runtime::Runtime;
use xxhash_rust::xxh3::xxh3_64;

use super::elsewhere::Elsewhere;
use super::error::{OpenError, explain, is_lost, is_no_script, words};
use super::keys::Common;
use super::link::{self, Link, Refusal, Sent};
use super::restore::Restored;
use super::servers::{Servers, invoke};
use super::settings;
use super::{HEARTBEAT, RedisLog, Task, millis, number, scripts};
use crate::backlog::Backlog;
use crate::batcher::{AppendError, LogBackend, Placed};
use crate::frame::{Frame, FrameBuilder};
use crate::log::{Log, now};
use crate::spill::{Blocker, Primary};

/// Approximate overhead of an entry on the server, in bytes.
const OVERHEAD_BYTES: u64 = 192;
/// Time between two looks at the log while a tenant waits for its share of it: a sink in another
/// process may have made room.
const LOOK: Duration = Duration::from_millis(250);

/// Writer of a log on Redis.
pub(crate) struct RedisWriter {
    log: Arc<RedisLog>,
    /// Separate connections, because they belong to the runtime that made them.
    servers: Arc<Servers>,
    incarnation: u64,
    key: [u64; 2],
    last_time: Nanos,
    /// A frame that may not be durable; the builder is empty then.
    waiting: Option<Frame>,
    link: Option<Link>,
    elsewhere: Elsewhere,
    /// Runtime of the writer's thread, created there.
    runtime: Option<Runtime>,
}

/// Response of the server to an append.
struct Answer {
    what: String,
    start: u64,
    used: u64,
    /// Every sink has passed this offset.
    passed: u64,
    /// False when too few replicas confirmed in time.
    replicated: bool,
    /// The settings that the server has after the append, if they matter.
    settings: Option<Vec<(String, String)>>,
}

/// An id that is unique among writers but not secret: the time and the process.
pub(super) fn unique() -> u64 {
    now().unsigned_abs() ^ (u64::from(std::process::id()) << 48)
}

/// Renews the heartbeat of the writer until the log is dropped, and watches what the server holds
/// and how it is set.
pub(super) fn keep_alive(log: &Arc<RedisLog>, incarnation: u64) {
    let weak = Arc::downgrade(log);
    let task = tokio::spawn(async move {
        let mut beat = tokio::time::interval(HEARTBEAT / 5);
        loop {
            tokio::select! {
                biased;
                _ = beat.tick() => {}
                () = tokio::time::sleep(LOOK) => {
                    let Some(log) = weak.upgrade() else { return };
                    log.look_for_room().await;
                    continue;
                }
            }
            let Some(log) = weak.upgrade() else { return };
            match beat_once(&log, &log.servers, incarnation, HEARTBEAT).await {
                // Sinks in other processes may have made room.
                Ok(true) => {
                    if let Err(error) = log.refresh().await {
                        tracing::debug!(log = log.id, "look at the log: {}", words(&error));
                    }
                }
                Ok(false) => match log.restore(&log.servers, incarnation).await {
                    Ok(Restored::Taken | Restored::Ahead(_)) => {
                        tracing::error!(log = log.id, "the log was closed or taken while its writer lives");
                        return;
                    }
                    Ok(Restored::Whole | Restored::Again) => {}
                    Err(error) => tracing::debug!(log = log.id, "restore the log: {}", words(&error)),
                },
                Err(error) => tracing::debug!(log = log.id, "heartbeat: {}", words(&error)),
            }
            log.look_at_settings().await;
        }
    });
    *log.task.lock() = Some(Task(task));
}

impl RedisLog {
    /// Reads what every sink has passed, while a tenant waits for it.
    async fn look_for_room(&self) {
        if !self.backlog.as_ref().is_some_and(|backlog| backlog.has_waiting()) {
            return;
        }
        // The trim counts the cursors, also those that a process of an earlier release moves. The
        // heartbeat must not wait for a server that is silent.
        if let Ok(Err(error)) = tokio::time::timeout(HEARTBEAT / 5, self.trim()).await {
            tracing::debug!(log = self.id, "look for room: {error}");
        }
    }
}

async fn beat_once(log: &RedisLog, servers: &Servers, incarnation: u64, time: Duration) -> RedisResult<bool> {
    let arguments = [incarnation.to_string(), millis(time)];
    let keys = [log.keys.meta.as_str(), &log.keys.writer];
    servers.script(&scripts::BEAT, &keys, &arguments.each_ref().map(String::as_str)).await
}

impl RedisWriter {
    pub(super) fn new(log: Arc<RedisLog>, common: Common, incarnation: u64, key: [u64; 2]) -> Result<Self, OpenError> {
        let servers = Arc::new(Servers::new(Arc::clone(&log.config))?);
        let elsewhere = Elsewhere::new(Arc::clone(&servers), Arc::clone(&log.config), common, log.id.clone());
        Ok(Self { log, servers, incarnation, key, last_time: 0, waiting: None, link: None, elsewhere, runtime: None })
    }

    /// Appends the frame, which must start at the log's end or be its last one.
    fn store_frame(&mut self, frame: &Frame) -> Result<(), AppendError> {
        let mut tried = false;
        let mut freed = false;
        let mut restored = false;
        loop {
            let answer = match self.block_on(async |form| form.ask(frame).await)? {
                Ok(answer) => answer,
                // Another connection or another server may respond; a silent one has timed out.
                Err(Refusal::Server(error))
                    if is_lost(&error) && !error.is_timeout() && !std::mem::replace(&mut tried, true) =>
                {
                    continue;
                }
                Err(refusal) => return Err(AppendError::Retry(refusal.words())),
            };
            if let Some(settings) = &answer.settings
                && let Err(error) = settings::judge(&self.log.config.urls_for_people(), settings)
            {
                // The frame is appended again once the settings are safe, and recognised.
                self.link = None;
                return Err(AppendError::Retry(error.to_string()));
            }
            let RedisLog { id, config, .. } = &*self.log;
            match answer.what.as_str() {
                "stored" if answer.replicated => {
                    self.stored(frame, &answer);
                    return Ok(());
                }
                "stored" => {
                    return Err(AppendError::Retry(format!(
                        "fewer than {} replicas of redis have the data after {} ms (redis.replicas)",
                        config.replicas, config.replica_timeout_ms
                    )));
                }
                "full" if !std::mem::replace(&mut freed, true) => self.free()?,
                "full" => {
                    return Err(AppendError::Retry(format!(
                        "log {id} is full: {} bytes that a sink has not stored yet (redis.max_bytes)",
                        answer.used
                    )));
                }
                "gone" | "torn" if !std::mem::replace(&mut restored, true) => self.restore()?,
                "gone" | "torn" => {
                    return Err(AppendError::Retry(format!("redis has lost log {id}, and loses it again")));
                }
                _ => return Err(AppendError::Fatal(taken(id))),
            }
        }
    }

    /// Puts a log that the server has lost there again, as far as this process holds it.
    fn restore(&mut self) -> Result<(), AppendError> {
        let restored = self.block_on(async |form| form.log.restore(&form.servers, form.incarnation).await)?;
        match restored {
            Ok(Restored::Whole | Restored::Again) => Ok(()),
            Ok(Restored::Taken) => Err(AppendError::Fatal(taken(&self.log.id))),
            Ok(Restored::Ahead(end)) => Err(AppendError::Fatal(format!(
                "log {} does not end where its writer left it but at {end}: start this node again",
                self.log.id
            ))),
            Err(error) => Err(AppendError::Retry(explain(&error))),
        }
    }

    fn stored(&self, frame: &Frame, answer: &Answer) {
        self.log.note(answer.start, answer.used);
        self.log.held.lock().ring.push(frame.clone());
        self.log.end.send_replace(frame.header().end_offset());
        self.log.note_passed(answer.passed);
    }

    /// Frees space kept only for detecting resent messages.
    fn free(&mut self) -> Result<(), AppendError> {
        let trimmed = self.block_on(async |form| form.log.trim_to(&form.servers, 0, 0).await)?;
        trimmed.map(drop).map_err(|error| AppendError::Retry(explain(&error)))
    }

    async fn ask(&mut self, frame: &Frame) -> Result<Answer, Refusal> {
        let mut link = match self.link.take() {
            Some(link) => link,
            None => {
                let limit = link::patience(&self.log.config);
                let connected = tokio::time::timeout(limit, self.connect()).await;
                connected.map_err(|_| Refusal::Silent(limit))??
            }
        };
        let mut answer = append(&mut link, &self.log, self.incarnation, frame).await;
        if matches!(&answer, Err(error) if is_no_script(error)) {
            scripts::APPEND.load_async(&mut link.connection).await?;
            answer = append(&mut link, &self.log, self.incarnation, frame).await;
        }
        // After an error the next response on the connection is unknown.
        match answer {
            Ok(answer) => {
                self.link = Some(link);
                Ok(answer)
            }
            Err(error) => {
                self.servers.forget(None);
                Err(error.into())
            }
        }
    }

    async fn connect(&self) -> Result<Link, Refusal> {
        let RedisLog { keys, config, .. } = &*self.log;
        let mut link = Link::open(&self.servers, config, &keys.log).await?;
        scripts::APPEND.load_async(&mut link.connection).await?;
        Ok(link)
    }

    /// Runs a future on the writer's thread, which has its own small runtime.
    fn block_on<T>(&mut self, work: impl AsyncFnOnce(&mut Self) -> T) -> Result<T, AppendError> {
        let runtime = match self.runtime.take() {
            Some(runtime) => runtime,
            None => tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(|error| AppendError::Retry(format!("no runtime for the log's writer: {error}")))?,
        };
        let out = runtime.block_on(work(self));
        self.runtime = Some(runtime);
        Ok(out)
    }
}

fn taken(log: &str) -> String {
    format!("log {log} was closed by others, who took its writer for dead: start this node again")
}

/// Sends the append with what makes it durable.
async fn append(link: &mut Link, log: &RedisLog, incarnation: u64, frame: &Frame) -> RedisResult<Answer> {
    let mut pipeline = redis::pipe();
    pipeline.add_command(command(log, incarnation, frame));
    let Sent { mut answers, is_replicated, settings } = link.send(&log.config, &log.keys.meta, pipeline, 1).await?;
    let (what, start, used, passed): (String, String, String, String) =
        redis::from_redis_value(answers.swap_remove(0))?;
    let (start, used, passed) = match what.as_str() {
        "stored" | "full" => (number(&start)?, number(&used)?, number(&passed)?),
        _ => (0, 0, 0),
    };
    Ok(Answer { what, start, used, passed, replicated: is_replicated, settings })
}

/// The command that appends a frame.
pub(super) fn command(log: &RedisLog, incarnation: u64, frame: &Frame) -> redis::Cmd {
    let header = frame.header();
    let mut script = invoke(&scripts::APPEND, &[&log.keys.meta, &log.keys.log, &log.keys.marks], &[]);
    script.arg(incarnation).arg(header.first_offset).arg(header.count).arg(header.end_offset());
    script.arg(log.config.max_bytes).arg(&frame.bytes()[..]).arg(format!("{:016x}", xxh3_64(frame.bytes())));
    script.arg(header.appended / 1_000_000).arg(OVERHEAD_BYTES);
    script
}

impl LogBackend for RedisWriter {
    fn append(&mut self, builder: &mut FrameBuilder) -> Result<Frame, AppendError> {
        let frame = match self.waiting.take() {
            Some(frame) => frame,
            None => {
                // Append times never decrease, so that they can be searched.
                self.last_time = self.last_time.max(now());
                builder.build(*self.log.end.borrow(), self.incarnation, self.last_time)
            }
        };
        match self.store_frame(&frame) {
            Ok(()) => Ok(frame),
            Err(error) => {
                self.waiting = Some(frame);
                Err(error)
            }
        }
    }

    fn recent(&self) -> Vec<Frame> {
        self.log.held.lock().ring.frames().cloned().collect()
    }

    fn recent_at(&self, offset: u64) -> Option<Frame> {
        self.log.held.lock().ring.at(offset)
    }

    fn key(&self) -> [u64; 2] {
        self.key
    }

    fn recent_elsewhere(&mut self, anew: bool) -> Result<Vec<Frame>, AppendError> {
        let begun = Instant::now();
        let found = self.block_on(async |form| form.elsewhere.look(anew).await)?;
        let frames = found.map_err(|error| {
            self.servers.forget(None);
            AppendError::Retry(format!("redis is away: {}", words(&error)))
        })?;
        tracing::debug!(frames = frames.len(), time = ?begun.elapsed(), "looked for resent messages elsewhere");
        Ok(frames)
    }

    fn backlog(&self) -> Option<Arc<Backlog>> {
        self.log.backlog.clone()
    }

    fn placed(&self, frame: &Frame) -> Placed {
        let bytes = frame.bytes().len() as u64 + OVERHEAD_BYTES;
        Placed { end: frame.header().end_offset(), spilled: None, bytes }
    }

    fn blocked(&self, reason: Option<&str>) {
        self.log.set_blocked(reason);
    }

    fn close(&mut self) -> Result<(), AppendError> {
        // This is the last heartbeat.
        drop(self.log.task.lock().take());
        let incarnation = self.incarnation;
        let ended =
            self.block_on(async |form| beat_once(&form.log, &form.servers, incarnation, Duration::ZERO).await)?;
        ended.map(drop).map_err(|error| AppendError::Retry(explain(&error)))
    }
}

impl Primary for RedisWriter {
    fn id(&self) -> &str {
        &self.log.id
    }

    fn end(&self) -> u64 {
        *self.log.end.borrow()
    }

    fn incarnation(&self) -> u64 {
        self.incarnation
    }

    fn blocker(&self) -> Blocker {
        let log = Arc::clone(&self.log);
        Box::new(move |reason| log.set_blocked(reason))
    }

    fn take_waiting(&mut self) -> Option<Frame> {
        self.waiting.take()
    }

    fn put_waiting(&mut self, frame: Frame) {
        self.last_time = self.last_time.max(frame.header().appended);
        self.waiting = Some(frame);
    }

    fn store(&mut self, frame: &Frame) -> Result<(), AppendError> {
        self.store_frame(frame)
    }
}
