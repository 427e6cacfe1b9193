//! The spill with a simulated primary.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use model::{DeviceKey, Schema, ValueRef};
use parking_lot::Mutex;

use super::{Blocker, Config, Opened, Primary, SpillWriter, Status};
use crate::batcher::{AppendError, LogBackend};
use crate::frame::{Frame, FrameBuilder, ReadingHeader, Record, Staged};
use crate::metrics::Metrics;

/// State of the primary's server, which outlasts the process.
#[derive(Default)]
struct Server {
    logs: Vec<(String, Vec<Frame>)>,
    away: bool,
    /// Stores without a response.
    silent: bool,
    /// The process is killed at this store: before it arrives, or before the response.
    steps: Option<(u64, bool)>,
    dead: bool,
}

impl Server {
    fn end(&self, log: &str) -> Option<u64> {
        let (_, frames) = self.logs.iter().find(|(id, _)| id == log)?;
        Some(frames.last().map_or(0, |frame| frame.header().end_offset()))
    }

    fn numbers(&self) -> Vec<i64> {
        let frames = self.logs.iter().flat_map(|(_, frames)| frames);
        let records = frames.flat_map(|frame| frame.records().map(|(_, record)| record).collect::<Vec<_>>());
        records
            .map(|record| match record {
                Record::Reading(reading) => reading.time,
                other => panic!("not a reading: {other:?}"),
            })
            .collect()
    }

    fn store(&mut self, log: &str, frame: &Frame) -> Result<(), AppendError> {
        let killed = || AppendError::Fatal("the process was killed".into());
        if self.dead {
            return Err(killed());
        }
        if self.away {
            return Err(AppendError::Retry("away".into()));
        }
        let last = match &mut self.steps {
            Some((0, stored)) => Some(*stored),
            Some((left, _)) => {
                *left -= 1;
                None
            }
            None => None,
        };
        if last == Some(false) {
            self.dead = true;
            return Err(killed());
        }
        let end = self.end(log).expect("the log is there");
        let (_, frames) = self.logs.iter_mut().find(|(id, _)| id == log).expect("the log is there");
        match frames.last() {
            Some(there) if there.header().end_offset() == frame.header().end_offset() => {
                assert_eq!(there.bytes(), frame.bytes(), "a retry has the same bytes");
            }
            _ => {
                assert_eq!(frame.header().first_offset, end, "frames follow each other");
                frames.push(frame.clone());
            }
        }
        if last == Some(true) {
            self.dead = true;
            return Err(killed());
        }
        if self.silent { Err(AppendError::Retry("no answer".into())) } else { Ok(()) }
    }
}

/// One start of a process.
struct Hand {
    server: Arc<Mutex<Server>>,
    id: String,
    end: u64,
    waiting: Option<Frame>,
}

impl LogBackend for Hand {
    fn append(&mut self, builder: &mut FrameBuilder) -> Result<Frame, AppendError> {
        let frame = self.waiting.take().unwrap_or_else(|| builder.build(self.end, self.incarnation(), 5));
        let stored = self.store(&frame);
        if stored.is_err() {
            self.waiting = Some(frame.clone());
        }
        stored.map(|()| frame)
    }

    fn recent(&self) -> Vec<Frame> {
        Vec::new()
    }

    fn blocked(&self, _: Option<&str>) {}
}

impl Primary for Hand {
    fn id(&self) -> &str {
        &self.id
    }

    fn end(&self) -> u64 {
        self.end
    }

    fn incarnation(&self) -> u64 {
        self.id.len() as u64
    }

    fn blocker(&self) -> Blocker {
        Box::new(|_| {})
    }

    fn take_waiting(&mut self) -> Option<Frame> {
        self.waiting.take()
    }

    fn put_waiting(&mut self, frame: Frame) {
        self.waiting = Some(frame);
    }

    fn store(&mut self, frame: &Frame) -> Result<(), AppendError> {
        self.server.lock().store(&self.id, frame)?;
        self.end = frame.header().end_offset();
        Ok(())
    }
}

fn open(dir: &Path, server: &Arc<Mutex<Server>>) -> (SpillWriter<Hand>, Status) {
    open_small(dir, server, Config::default().capacity_bytes, Arc::default())
}

fn open_small(
    dir: &Path,
    server: &Arc<Mutex<Server>>,
    capacity_bytes: u64,
    metrics: Arc<Metrics>,
) -> (SpillWriter<Hand>, Status) {
    let dir = dir.to_owned();
    let config = Config { dir, segment_bytes: 16 << 10, patience_ms: 0, capacity_bytes };
    let opened = Opened::open(config).expect("the files are whole");
    let (end, id) = {
        let mut server = server.lock();
        let end = opened.drained_into().and_then(|log| server.end(log));
        let id = "x".repeat(server.logs.len() + 1);
        server.logs.push((id.clone(), Vec::new()));
        (end, id)
    };
    let hand = Hand { server: Arc::clone(server), id, end: 0, waiting: None };
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(opened.start(hand, end, metrics)).expect("it starts")
}

fn builder_of(number: i64) -> FrameBuilder {
    let mut staged = Staged::default();
    let device = Arc::new(DeviceKey::new("default", "d1").expect("an id"));
    let header = ReadingHeader {
        time: number,
        received: number,
        identity: number.unsigned_abs(),
        seq: None,
        device_timed: true,
        claimed_time: None,
        trace: None,
        resent: false,
    };
    staged.reading(&device, &Arc::new(Schema::new(["n"])), &header, [Some(ValueRef::Int(number))]);
    let mut builder = FrameBuilder::default();
    builder.absorb(&mut staged);
    builder
}

/// Appends one number with the batcher's retries; false when the process is dead.
fn append(form: &mut SpillWriter<Hand>, number: i64) -> bool {
    append_all(form, &mut builder_of(number))
}

fn append_all(form: &mut SpillWriter<Hand>, builder: &mut FrameBuilder) -> bool {
    let begun = Instant::now();
    loop {
        match form.append(builder) {
            Ok(_) => return true,
            Err(AppendError::Fatal(_)) => return false,
            Err(AppendError::Retry(_)) => assert!(begun.elapsed() < Duration::from_secs(20), "no append within 20 s"),
        }
    }
}

fn wait_until(what: &str, done: impl Fn() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < Duration::from_secs(20), "not within 20 s: {what}");
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

#[test]
fn what_is_spilled_comes_back_in_order_before_what_follows() {
    let dir = tempfile::tempdir().expect("a folder");
    let server = Arc::new(Mutex::new(Server::default()));
    let (mut form, status) = open(dir.path(), &server);
    let mut next = 0..;
    for round in 0..3 {
        (0..5).for_each(|_| assert!(append(&mut form, next.next().expect("endless"))));
        {
            let mut server = server.lock();
            (server.away, server.silent) = (round % 2 == 0, round % 2 == 1);
        }
        (0..50).for_each(|_| assert!(append(&mut form, next.next().expect("endless"))));
        assert!(status.behind() > 0);
        {
            let mut server = server.lock();
            (server.away, server.silent) = (false, false);
        }
        // Also during the drain.
        (0..20).for_each(|_| assert!(append(&mut form, next.next().expect("endless"))));
        wait_until("all is drained", || status.behind() == 0);
    }
    (0..5).for_each(|_| assert!(append(&mut form, next.next().expect("endless"))));
    // The last ones may have come before the way to the server was open again.
    wait_until("all is drained", || status.behind() == 0);
    form.close().expect("it closes");
    assert_eq!(server.lock().numbers(), (0..230).collect::<Vec<_>>());
}

/// A frame that finds no room in the spill is stored although the drain ends before its retry.
#[test]
fn a_frame_that_waits_for_room_in_the_spill_survives_the_end_of_the_drain() {
    let dir = tempfile::tempdir().expect("a folder");
    let (server, metrics) = (Arc::new(Mutex::new(Server::default())), Arc::<Metrics>::default());
    let (mut form, status) = open_small(dir.path(), &server, 32 << 10, Arc::clone(&metrics));
    let mut next = 0;
    for _ in 0..3 {
        server.lock().away = true;
        let mut waiting = loop {
            let mut builder = builder_of(next);
            next += 1;
            // The first refusal is that of the primary; the spill then takes the frame.
            let full = (0..3).all(|_| matches!(form.append(&mut builder), Err(AppendError::Retry(_))));
            if full {
                break builder;
            }
        };
        server.lock().away = false;
        wait_until("appends go to the server", || status.behind() == 0 && metrics.spilling.get() == 0);
        assert!(append_all(&mut form, &mut waiting));
        assert!(append(&mut form, next));
        next += 1;
    }
    form.close().expect("it closes");
    assert_eq!(server.lock().numbers(), (0..next).collect::<Vec<_>>());
}

/// Kills the process at every store in turn, before and after the server has stored it, and
/// restarts it.
#[test]
fn a_crash_at_any_point_loses_and_doubles_nothing_that_was_acknowledged() {
    for step in 0..24 {
        for stored in [false, true] {
            let dir = tempfile::tempdir().expect("a folder");
            let server = Arc::new(Mutex::new(Server::default()));
            let (mut form, _) = open(dir.path(), &server);
            (0..3).for_each(|number| assert!(append(&mut form, number)));
            {
                let mut server = server.lock();
                // The frame in flight arrives in half of the cases.
                (server.away, server.silent) = (!stored, stored);
            }
            (3..6).for_each(|number| assert!(append(&mut form, number)));
            {
                let mut server = server.lock();
                (server.away, server.silent, server.steps) = (false, false, Some((step, stored)));
            }
            let mut acknowledged = 6;
            while acknowledged < 12 && append(&mut form, acknowledged) {
                acknowledged += 1;
            }
            drop(form);
            // A second crash while draining the spill of the first one.
            {
                let mut server = server.lock();
                (server.dead, server.steps) = (false, Some((step % 5, stored)));
            }
            let (form, _) = open(dir.path(), &server);
            drop(form);
            {
                let mut server = server.lock();
                (server.dead, server.steps) = (false, None);
            }
            let (form, status) = open(dir.path(), &server);
            wait_until("all is drained", || status.behind() == 0);
            drop(form);
            let numbers = server.lock().numbers();
            // The frame in flight may be stored or not.
            let whole = |count: i64| numbers == (0..count).collect::<Vec<_>>();
            assert!(
                whole(acknowledged) || whole(acknowledged + 1),
                "step {step}, {stored}: {acknowledged} {numbers:?}"
            );
        }
    }
}

#[test]
fn a_note_of_a_later_release_or_a_damaged_one_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let server = Arc::new(Mutex::new(Server { away: true, ..Server::default() }));
    let (mut form, _) = open(dir.path(), &server);
    assert!(append(&mut form, 1));
    drop(form);
    let path = dir.path().join("drain.json");
    let text = std::fs::read_to_string(&path).expect("it is there");
    for (from, to, said) in [("\"version\":1", "\"version\":2", "version 2"), ("\"to\":0", "\"to\":7", "checksum")] {
        std::fs::write(&path, text.replace(from, to)).expect("it can be written");
        let config = Config { dir: dir.path().to_owned(), segment_bytes: 16 << 10, ..Config::default() };
        let error = Opened::open(config).err().expect("it is refused").to_string();
        assert!(error.contains(said) && error.contains("drain.json"), "{error}");
    }
}
