//! Group commit with a backend that the test controls.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Wake, Waker};

use common::{Bell, all, append, numbers, stage};
use parking_lot::{Condvar, Mutex};
use weir_buffer::batcher::{AppendError, BatchConfig, Batcher, LogBackend};
use weir_buffer::frame::{Frame, FrameBuilder, HEADER_BYTES};
use weir_buffer::memory::MemoryLog;
use weir_buffer::{SubmitError, TaskId, Ticket};

/// Behaviour of the next appends.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    Wait,
    Store,
    Panic,
    Full,
}

struct Hand {
    way: Mutex<Way>,
    changed: Condvar,
    begun: AtomicUsize,
    frames: Mutex<Vec<Frame>>,
}

impl Hand {
    fn new(way: Way) -> Arc<Self> {
        Arc::new(Self {
            way: Mutex::new(way),
            changed: Condvar::new(),
            begun: AtomicUsize::new(0),
            frames: Mutex::default(),
        })
    }

    fn batcher(self: &Arc<Self>, config: BatchConfig) -> Batcher {
        Batcher::start(config, Arc::default(), HandWriter(Arc::clone(self))).expect("a thread")
    }

    fn go(&self, way: Way) {
        *self.way.lock() = way;
        self.changed.notify_all();
    }

    /// Waits until this number of appends have begun.
    fn wait_for_appends(&self, count: usize) {
        let begun = std::time::Instant::now();
        while self.begun.load(Ordering::SeqCst) < count {
            assert!(begun.elapsed().as_secs() < 20, "no append within 20 s");
            std::thread::yield_now();
        }
    }
}

struct HandWriter(Arc<Hand>);

impl LogBackend for HandWriter {
    fn append(&mut self, builder: &mut FrameBuilder) -> Result<Frame, AppendError> {
        self.0.begun.fetch_add(1, Ordering::SeqCst);
        let mut way = self.0.way.lock();
        while *way == Way::Wait {
            self.0.changed.wait(&mut way);
        }
        match *way {
            Way::Panic => panic!("as the test wished"),
            Way::Full => return Err(AppendError::Retry("the test wants no more".into())),
            _ => {}
        }
        let mut frames = self.0.frames.lock();
        let end = frames.last().map_or(0, |frame| frame.header().end_offset());
        frames.push(builder.build(end, 1, 0));
        Ok(frames[frames.len() - 1].clone())
    }

    fn recent(&self) -> Vec<Frame> {
        self.0.frames.lock().clone()
    }

    fn blocked(&self, _: Option<&str>) {}
}

#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn records_submitted_during_an_append_are_in_the_next_one() {
    let hand = Hand::new(Way::Wait);
    let batcher = hand.batcher(BatchConfig::default());
    let waker = Waker::from(Arc::new(Bell::default()));
    assert_eq!(batcher.submit(&mut stage([0], false), &waker).unwrap(), Ticket(1));
    hand.wait_for_appends(1);
    for n in 1..100 {
        assert_eq!(batcher.submit(&mut stage([n], false), &waker).unwrap(), Ticket(2));
    }
    assert_eq!(batcher.durable().unwrap(), Ticket(0), "nothing is durable before the append returns");
    hand.go(Way::Store);
    batcher.close();
    assert_eq!(batcher.durable().unwrap(), Ticket(2));
    let frames = hand.frames.lock();
    assert_eq!(frames.iter().map(|f| f.header().count).collect::<Vec<_>>(), [1, 99]);
    assert_eq!(numbers(&frames), (0..100).collect::<Vec<_>>());
}

#[test]
fn a_large_batch_becomes_several_frames_and_one_ticket() {
    for config in [
        BatchConfig { max_records: 10, ..BatchConfig::default() },
        BatchConfig { max_bytes: 600, ..BatchConfig::default() },
    ] {
        let hand = Hand::new(Way::Store);
        let batcher = hand.batcher(config.clone());
        assert_eq!(append(&batcher, stage(0..95, false)).unwrap(), Ticket(1));
        let frames = hand.frames.lock();
        assert!(frames.len() > 5);
        assert!(frames.iter().all(|f| f.header().count <= config.max_records));
        assert!(frames.iter().all(|f| f.bytes().len() <= config.max_bytes + HEADER_BYTES + 64));
        assert_eq!(numbers(&frames), (0..95).collect::<Vec<_>>());
    }
}

#[test]
fn a_panic_of_the_writer_wakes_all_waiting_tasks() {
    let hand = Hand::new(Way::Wait);
    let batcher = hand.batcher(BatchConfig::default());
    let producers: Vec<_> = (0..4)
        .map(|n| {
            let batcher = batcher.clone();
            std::thread::spawn(move || append(&batcher, stage([n], false)))
        })
        .collect();
    hand.wait_for_appends(1);
    hand.go(Way::Panic);
    for producer in producers {
        let error = producer.join().unwrap().unwrap_err();
        assert!(error.contains("as the test wished"), "{error}");
    }
    assert!(matches!(batcher.submit(&mut stage([9], false), Waker::noop()), Err(SubmitError::Failed(_))));
}

/// A batcher whose writer is in an append, and whose next batch is full.
fn full() -> (Arc<Hand>, Batcher) {
    let hand = Hand::new(Way::Wait);
    let batcher = hand.batcher(BatchConfig { max_bytes: 100, ..BatchConfig::default() });
    batcher.submit(&mut stage([0], false), Waker::noop()).expect("there is room");
    hand.wait_for_appends(1);
    batcher.submit(&mut stage([1], false), Waker::noop()).expect("there is room");
    (hand, batcher)
}

#[test]
fn a_task_that_polls_for_room_repeatedly_is_woken_once() {
    let (hand, batcher) = full();
    let count = Arc::new(Count::default());
    let waker = Waker::from(Arc::clone(&count));
    for _ in 0..50 {
        assert!(matches!(batcher.submit(&mut stage(2..9, false), &waker), Err(SubmitError::Full)));
    }
    hand.go(Way::Store);
    batcher.close();
    assert_eq!(count.0.load(Ordering::SeqCst), 1);
}

#[test]
fn a_task_that_no_longer_waits_for_room_is_forgotten() {
    let (hand, batcher) = full();
    let count = Arc::new(Count::default());
    let waker = Waker::from(Arc::clone(&count));
    assert!(matches!(batcher.submit(&mut stage(2..9, false), &waker), Err(SubmitError::Full)));
    let task = TaskId::of(&waker);
    drop(waker);
    assert_eq!(Arc::strong_count(&count), 2);
    batcher.no_longer_waits(None, task);
    assert_eq!(Arc::strong_count(&count), 1);
    hand.go(Way::Store);
    batcher.close();
}

#[test]
fn a_log_that_is_full_can_be_closed_and_acknowledges_nothing() {
    let hand = Hand::new(Way::Full);
    let batcher = hand.batcher(BatchConfig::default());
    let producer = {
        let batcher = batcher.clone();
        std::thread::spawn(move || append(&batcher, stage([1], false)))
    };
    hand.wait_for_appends(2);
    batcher.close();
    assert!(producer.join().unwrap().unwrap_err().contains("the test wants no more"));
    assert!(hand.frames.lock().is_empty());
}

#[tokio::test]
async fn closing_writes_the_open_batch() {
    let (log, batcher) = MemoryLog::open("m", BatchConfig::default()).unwrap();
    let waker = Waker::from(Arc::new(Bell::default()));
    for n in 0..50 {
        batcher.submit(&mut stage([n], false), &waker).unwrap();
    }
    batcher.close();
    assert_eq!(all(&*log).await, (0..50).collect::<Vec<_>>());
    assert!(batcher.submit(&mut stage([50], false), &waker).is_err());
}
