//! One sender's way into the log and, in a fleet, to the store of its sessions.

use std::task::{Context, Poll};

use crate::fleet::Change;
use door::{Failed, Intake, Message, Retained, Ticket, Verdict};
use model::trace::Span;

/// A sender's intake, and the changes that it has staged for the sessions of the fleet.
#[derive(Debug)]
pub(crate) struct Outbox<T> {
    intake: T,
    /// Submitted together with what the intake has staged.
    pub(crate) changes: Vec<Change>,
}

impl<T> Outbox<T> {
    pub(crate) fn new(intake: T) -> Self {
        Self { intake, changes: Vec::new() }
    }
}

impl<T: Intake> Intake for Outbox<T> {
    fn take(&mut self, message: &Message<'_>) -> Verdict {
        self.intake.take(message)
    }

    fn is_traced(&self) -> bool {
        self.intake.is_traced()
    }

    fn take_span(&mut self) -> Option<Box<Span>> {
        self.intake.take_span()
    }

    fn answered(&mut self, span: Box<Span>) {
        self.intake.answered(span);
    }

    fn retain(&mut self, message: &Retained<'_>) {
        self.intake.retain(message);
    }

    fn end_session(&mut self) -> bool {
        self.intake.end_session()
    }

    fn released(&mut self, id: u64) {
        self.intake.released(id);
    }

    fn rest(&mut self) {
        self.intake.rest();
    }

    fn was_routed(&mut self, id: u64) -> bool {
        self.intake.was_routed(id)
    }

    fn poll_submit(&mut self, cx: &mut Context<'_>) -> Poll<Result<Ticket, Failed>> {
        self.intake.poll_submit(cx)
    }

    fn durable(&self) -> Result<Ticket, Failed> {
        self.intake.durable()
    }
}
