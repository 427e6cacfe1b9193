//! The drain: a thread that moves frames from the spill into the primary, in order.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::Runtime;

use super::place::Place;
use super::{Mode, Primary, SINK, Shared};
use crate::backlog;
use crate::batcher::AppendError;
use crate::cursor::Cursor;
use crate::embedded::EmbeddedLog;
use crate::frame::Frame;
use crate::log::{CursorError, Log};

/// Bytes drained between two moves of the cursor.
const STEP_BYTES: usize = 4 << 20;
/// Maximum rest for which appends are held back.
const LAST_BYTES: usize = 1 << 20;
/// Wait between attempts while the primary accepts nothing.
const PAUSE: Duration = Duration::from_millis(200);

/// Result of a step.
enum Step {
    /// More frames remain.
    More,
    /// The rest is small enough to hold back appends.
    NearEnd,
    /// The primary accepts nothing now.
    Wait,
    /// The primary has failed.
    Failed(String),
}

pub(super) fn start<P: Primary>(shared: Arc<Shared<P>>) -> std::io::Result<JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    std::thread::Builder::new().name("spill-drain".into()).spawn(move || run(&shared, &runtime))
}

/// Records durably that the primary has all frames below an offset.
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
                    // A wake-up and a time-out are handled alike.
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
        Err(AppendError::Retry(reason)) => {
            tracing::debug!("the primary takes nothing: {reason}");
            Step::Wait
        }
        Err(AppendError::Fatal(reason)) => Step::Failed(reason),
    }
}

fn move_frames<P: Primary>(shared: &Shared<P>, place: &Place, frames: &[Frame]) -> Result<(), AppendError> {
    for frame in frames {
        // Released early, because the writer may have to report that it is blocked.
        let mut primary = shared.primary.lock();
        let incarnation = primary.incarnation();
        primary.store(&frame.moved_to(place.of(frame.header().first_offset), incarnation))?;
        drop(primary);
        shared.drained_to(frame.header().end_offset());
        if matches!(*shared.mode.lock(), Mode::Closed) {
            return Err(AppendError::Retry("the log is being closed".into()));
        }
    }
    Ok(())
}

fn pass<P: Primary>(shared: &Shared<P>, runtime: &Runtime, to: u64) -> Result<(), Step> {
    runtime.block_on(move_cursor(&shared.log, to)).map_err(|error| Step::Failed(error.to_string()))?;
    // Space that cannot be freed now is freed later.
    if let Err(error) = runtime.block_on(shared.log.trim()) {
        tracing::warn!("spill: {error}");
    }
    Ok(())
}

/// Moves the last frames while appends are held back, and returns to `Direct`.
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
            Ok(()) => shared.drained_to(frame.header().end_offset()),
            Err(AppendError::Retry(_)) => return Step::Wait,
            Err(AppendError::Fatal(reason)) => return Step::Failed(reason),
        }
    }
    drop(primary);
    if let Err(step) = pass(shared, runtime, shared.drained.load(Ordering::Acquire)) {
        return step;
    }
    *mode = Mode::Direct;
    shared.goes_to(backlog::Place::Log);
    drop(mode);
    tracing::info!("everything that was spilled is drained: appends go to the server again");
    Step::More
}
