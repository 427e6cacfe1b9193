//! Decides when a device connects, how long it waits before a retry, and when it gives up.

use std::time::{Duration, Instant};

use rand_pcg::Pcg64Mcg;
use rand_pcg::rand_core::Rng;

use super::flight::Queue;
use super::lean::Lean;
use super::library::Library;
use super::{Ended, Target};
use crate::plan::Absence;
use crate::scenario::{Client, Faults};

const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(15);

/// Waits between attempts to connect: they double, with random jitter unless the scenario
/// reconnects in step.
#[derive(Debug)]
struct Waits {
    first: Duration,
    longest: Duration,
    in_step: bool,
    next: Duration,
    random: Pcg64Mcg,
}

impl Waits {
    fn new(faults: &Faults, random: Pcg64Mcg) -> Self {
        let or = |given: Duration, usual| if given.is_zero() { usual } else { given };
        let first = or(faults.reconnect, FIRST_WAIT);
        let longest = or(faults.reconnect_max, LONGEST_WAIT).max(first);
        Self { first, longest, in_step: faults.reconnect_in_step, next: first, random }
    }

    fn draw(&mut self) -> Duration {
        let whole = self.next;
        self.next = (whole * 2).min(self.longest);
        if self.in_step { whole } else { whole.mul_f64(f64::from(self.random.next_u32()) / f64::from(u32::MAX)) }
    }

    fn reset(&mut self) {
        self.next = self.first;
    }
}

enum Form {
    Lean(Lean),
    Library(Library),
}

/// Plays a device until everything is acknowledged, at the latest until `deadline`.
pub(super) async fn play(queue: &mut Queue, target: &Target, start: Instant, deadline: Instant) {
    let device = queue.device.clone();
    let mut absences = device.absences().into_iter().peekable();
    let mut waits = Waits::new(&device.kind.group.faults, device.random("waits"));
    let mut form = match device.kind.group.client {
        Client::Lean => Form::Lean(Lean::default()),
        Client::Rumqttc => Form::Library(Library),
    };
    tokio::time::sleep_until((start + device.begins()).into()).await;
    while !queue.is_done() && Instant::now() < deadline {
        if let Some(back) = away(&mut absences, start, Instant::now()) {
            tokio::time::sleep_until(back.min(deadline).into()).await;
            continue;
        }
        let until = absences.peek().map_or(deadline, |absence| (start + absence.from).min(deadline));
        let begun = Instant::now();
        let ended = match &mut form {
            Form::Lean(lean) => lean.connection(queue, target, until).await,
            Form::Library(library) => library.connection(queue, target, until).await,
        };
        queue.forget_hopeless().await;
        match ended {
            Ended::Done | Ended::Away => waits.reset(),
            Ended::HalfOpen => {}
            Ended::Dropped => {
                waits.reset();
                tokio::time::sleep(waits.draw()).await;
            }
            Ended::Failed(reason) => {
                queue.stats.failed(&device.id, &reason);
                // A connection that lasted resets the back-off.
                if begun.elapsed() > Duration::from_secs(10) {
                    waits.reset();
                }
                let wait = waits.draw();
                tokio::time::sleep_until((Instant::now() + wait).min(deadline).into()).await;
            }
        }
    }
}

/// The time at which the device returns, if it is away now.
fn away(
    absences: &mut std::iter::Peekable<impl Iterator<Item = Absence>>,
    start: Instant,
    now: Instant,
) -> Option<Instant> {
    while let Some(absence) = absences.peek() {
        if now < start + absence.from {
            return None;
        }
        if now < start + absence.until {
            return Some(start + absence.until);
        }
        absences.next();
    }
    None
}
