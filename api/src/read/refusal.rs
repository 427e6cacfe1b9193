//! Errors of reads that take more memory than one call may hold.

use model::Nanos;
use tonic::Status;

use super::merge::Piece;
use super::{Order, Sweep, rows_of};
use crate::{errors, names};

impl Sweep {
    /// The error for blocks that have to be read together and have no room together; `pieces` are
    /// those read so far.
    pub(super) fn refusal(&self, pieces: &[Piece]) -> Status {
        let together = self.together();
        // Those read are of a slice that begins here.
        let time = self.begin(pieces);
        let of_piece = |piece: &Piece| {
            let times = &piece.shown.times;
            times.partition_point(|t| *t <= time) - times.partition_point(|t| *t < time)
        };
        let of_time = together.iter().filter(|meta| meta.first_time == time && meta.last_time == time);
        let equal = of_time.map(|meta| meta.rows as usize).sum::<usize>() + pieces.iter().map(of_piece).sum::<usize>();
        let all = rows_of(together) + pieces.iter().map(|piece| piece.shown.times.len()).sum::<usize>();
        let (device, most) = (names::device(&self.device.tenant, &self.device.id), self.room.most());
        let time = text(time);
        let found = if equal > all / 2 {
            format!("`{device}` has {equal} readings with the one time {time}, which are read together")
        } else {
            format!("`{device}` has {all} readings in blocks that overlap at {time} and are read together")
        };
        let hint = format!(
            "{found}: they take more than the {most} bytes of memory that one call may hold: choose a range without \
             this time or fewer metrics, or raise `memory.max_bytes`; the device should give readings times of their own"
        );
        errors::invalid_as("TOO_LARGE", "range", hint)
    }

    /// The error for unflushed readings that have no room.
    pub(super) fn tail_refusal(&self) -> Status {
        let rows: usize = self.tail.iter().map(|piece| piece.shown.times.len()).sum();
        let (device, most) = (names::device(&self.device.tenant, &self.device.id), self.room.most());
        errors::crowded(
            most,
            format!(
                "`{device}` has {rows} readings in this range that are not flushed yet: they take more than the {most} \
                 bytes of memory that one call may hold: try again later, or choose a shorter range"
            ),
        )
    }

    /// The time at which the next slice begins.
    fn begin(&self, pieces: &[Piece]) -> Nanos {
        let unread = self.metas.get(self.unread);
        match self.order {
            Order::Ascending => {
                let firsts = pieces.iter().filter_map(|piece| piece.shown.times.first().copied());
                let first = firsts.chain(unread.map(|meta| meta.first_time)).min();
                first.unwrap_or(Nanos::MIN).max(self.range.start)
            }
            Order::Descending => {
                let lasts = pieces.iter().filter_map(|piece| piece.shown.times.last().copied());
                let last = lasts.chain(unread.map(|meta| meta.last_time)).max();
                last.unwrap_or(Nanos::MAX).min(self.range.end.saturating_sub(1))
            }
        }
    }
}

fn text(time: Nanos) -> String {
    let moment = jiff::Timestamp::from_nanosecond(time.into());
    moment.map_or_else(|_| format!("{time} ns"), |moment| moment.to_string())
}
