//! Completeness of the data read.

use model::Nanos;

/// Completeness of the data read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Freshness {
    pub(crate) complete_until: Nanos,
    pub(crate) unflushed: bool,
}

impl Freshness {
    /// Completeness of an empty read.
    pub(crate) const COMPLETE: Self = Self { complete_until: Nanos::MAX, unflushed: false };

    /// Completeness of both reads together.
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            complete_until: self.complete_until.min(other.complete_until),
            unflushed: self.unflushed || other.unflushed,
        }
    }

    pub(crate) fn to_proto(self) -> proto::v1::Freshness {
        // Without any device, the answer is complete as of now.
        let until = if self.complete_until == Nanos::MAX { crate::convert::now() } else { self.complete_until };
        proto::v1::Freshness {
            complete_until_time: Some(crate::convert::timestamp(until)),
            includes_unflushed: self.unflushed,
        }
    }
}
