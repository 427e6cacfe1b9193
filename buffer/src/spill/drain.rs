//! The drain: a thread that moves frames from the spill into the primary, in order.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::Runtime;

use super::place::Place;
use super::{Mode, Primary, SINK, Shared};
use crate::batcher::AppendError;
use crate::cursor::Cursor;
use crate::embedded::EmbeddedLog;
use crate::frame::Frame;
use crate::log::{CursorError, Log};

/// Bytes moved between two moves of the cursor.
const STEP_BYTES: usize = 4 << 20;
/// What may be left when appends are held back until it is moved.
const LAST_BYTES: usize = 1 << 20;
/// Between attempts while the primary takes nothing.
const PAUSE: Duration = Duration::from_millis(200);

/// How a step ended.
enum Step {
    /// There is more.
    More,
    /// So little is left that appends may be held back for it.
    NearEnd,
    /// The primary takes nothing now.
    Wait,
    /// Never again.
    Failed(String),
}

pub(super) fn start<P: Primary>(shared: Arc<Shared<P>>) -> std::io::Result<JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    std::thread::Builder::new().name("spill-drain".into()).spawn(move || run(&shared, &runtime))
}

/// Durably notes that the primary holds everything below.
pub(super) async fn move_cursor(log: &EmbeddedLog, to: u64) -> Result<(), CursorError> {
    log.move_cursor(SINK, Cursor { done_to: to, sealed_to: to, ..Cursor::default() }).await
}

fn run<P: Primary>(shared: &Shared<P>, runtime: &Runtime) {
    loop {
        let place = {
            let mut mode = shared.mode.lock();
            loop {
                match &*mode {
                    Mode::Direct => shared.changed.wait(&mut mode),
                    Mode::Spilling(place) => break place.clone(),
                    Mode::Failed(_) | Mode::Closed => return,
                }
            }
        };
        let mut step = step(shared, runtime, &place);
        if matches!(step, Step::NearEnd) {
            step = finish(shared, runtime, &place);
        }
        match step {
            Step::More | Step::NearEnd => {}
            Step::Wait => {
                let mut mode = shared.mode.lock();
                if matches!(*mode, Mode::Spilling(_)) {
                    // Whether it was woken or the time is over makes no difference.
                    shared.changed.wait_for(&mut mode, PAUSE);
                }
            }
            Step::Failed(reason) => {
                tracing::error!("what was spilled cannot be drained: {reason}");
                let mut mode = shared.mode.lock();
                if !matches!(*mode, Mode::Closed) {
                    *mode = Mode::Failed(reason);
                }
                return;
            }
        }
    }
}

/// Moves some frames.
fn step<P: Primary>(shared: &Shared<P>, runtime: &Runtime, place: &Place) -> Step {
    let from = shared.drained.load(Ordering::Acquire);
    let frames = match runtime.block_on(shared.log.read(from, STEP_BYTES)) {
        Ok(frames) => frames,
        Err(error) => return Step::Failed(error.to_string()),
    };
    let bytes: usize = frames.iter().map(|frame| frame.bytes().len()).sum();
    let moved = move_frames(shared, place, &frames);
    let to = shared.drained.load(Ordering::Acquire);
    if to > from
        && let Err(step) = pass(shared, runtime, to)
    {
        return step;
    }
    match moved {
        Ok(()) if bytes <= LAST_BYTES => Step::NearEnd,
        Ok(()) => Step::More,
        Err(AppendError::Full(reason)) => {
            tracing::debug!("the primary takes nothing: {reason}");
            Step::Wait
        }
        Err(AppendError::Fatal(reason)) => Step::Failed(reason),
    }
}

fn move_frames<P: Primary>(shared: &Shared<P>, place: &Place, frames: &[Frame]) -> Result<(), AppendError> {
    for frame in frames {
        // Not for longer: the writer may want to say that it is blocked.
        let mut primary = shared.primary.lock();
        let incarnation = primary.incarnation();
        primary.store(&frame.moved_to(place.of(frame.header().first_offset), incarnation))?;
        drop(primary);
        shared.drained.store(frame.header().end_offset(), Ordering::Release);
        if matches!(*shared.mode.lock(), Mode::Closed) {
            return Err(AppendError::Full("the log is being closed".into()));
        }
    }
    Ok(())
}

fn pass<P: Primary>(shared: &Shared<P>, runtime: &Runtime, to: u64) -> Result<(), Step> {
    runtime.block_on(move_cursor(&shared.log, to)).map_err(|error| Step::Failed(error.to_string()))?;
    // Space that cannot be given back now is given back later.
    if let Err(error) = runtime.block_on(shared.log.trim()) {
        tracing::warn!("spill: {error}");
    }
    Ok(())
}

/// Moves the last frames while nothing can be appended, and goes back to `Direct`.
fn finish<P: Primary>(shared: &Shared<P>, runtime: &Runtime, place: &Place) -> Step {
    let mut mode = shared.mode.lock();
    if !matches!(*mode, Mode::Spilling(_)) {
        return Step::More;
    }
    let from = shared.drained.load(Ordering::Acquire);
    let frames = match runtime.block_on(shared.log.read(from, usize::MAX)) {
        Ok(frames) => frames,
        Err(error) => return Step::Failed(error.to_string()),
    };
    let mut primary = shared.primary.lock();
    for frame in &frames {
        let moved = frame.moved_to(place.of(frame.header().first_offset), primary.incarnation());
        match primary.store(&moved) {
            Ok(()) => shared.drained.store(frame.header().end_offset(), Ordering::Release),
            Err(AppendError::Full(_)) => return Step::Wait,
            Err(AppendError::Fatal(reason)) => return Step::Failed(reason),
        }
    }
    drop(primary);
    if let Err(step) = pass(shared, runtime, shared.drained.load(Ordering::Acquire)) {
        return step;
    }
    *mode = Mode::Direct;
    drop(mode);
    shared.metrics.spilling.set(0);
    tracing::info!("everything that was spilled is drained: appends go to the server again");
    Step::More
}
