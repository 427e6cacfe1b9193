//! Validates requests.

use std::sync::Arc;

use model::{Nanos, TimeRange};
use proto::v1::{AggregateFunction, AggregateSpec, FillMode, QueryAggregatesRequest};
use stores::query::{Aggregate, Window};
use tonic::Status;

use crate::auth::Caller;
use crate::select::Selector;
use crate::{convert, errors};

/// Maximum number of functions in one call.
const MAX_FUNCTIONS: usize = 16;
/// Shortest bucket.
const MIN_BUCKET: Nanos = model::time::SECOND;

/// A checked request.
pub(super) struct AggregateRequest {
    pub(super) selector: Selector,
    pub(super) range: TimeRange,
    /// `None` for one bucket, the whole range.
    pub(super) window: Option<Window>,
    pub(super) functions: Vec<Aggregate>,
    pub(super) fill: FillMode,
    /// Longest run of buckets that is filled, as time.
    pub(super) max_fill: Nanos,
}

impl AggregateRequest {
    pub(super) fn read(
        caller: &Caller,
        tenant: &Arc<str>,
        request: &mut QueryAggregatesRequest,
    ) -> Result<Self, Status> {
        let selector = Selector::read(caller, tenant, Some(request.selector.get_or_insert_default()))?;
        if request.aggregates.is_empty() || request.aggregates.len() > MAX_FUNCTIONS {
            return Err(errors::invalid("aggregates", format!("must be 1 to {MAX_FUNCTIONS}")));
        }
        let functions = request.aggregates.iter().enumerate().map(|(i, spec)| function(i, spec));
        let fill = FillMode::try_from(request.fill);
        Ok(Self {
            selector,
            range: convert::closed_range(request.range.as_ref())?,
            window: window(request)?,
            functions: functions.collect::<Result<_, _>>()?,
            fill: fill.map_err(|_| errors::invalid("fill", "is not one of FillMode"))?,
            max_fill: match &request.max_fill {
                Some(longest) => convert::length("max_fill", longest)?,
                None => Nanos::MAX,
            },
        })
    }

    /// The bucket that contains a time.
    pub(super) fn bucket_at(&self, time: Nanos) -> Result<TimeRange, Status> {
        let Some(window) = &self.window else { return Ok(self.range) };
        window.around(time).ok_or_else(|| errors::invalid("range", "is beyond the years that the calendar covers"))
    }
}

fn window(request: &QueryAggregatesRequest) -> Result<Option<Window>, Status> {
    let zone = &request.time_zone;
    let (field, window) = match (&request.bucket, request.bucket_calendar.as_str()) {
        (None, "") => return Ok(None),
        (Some(width), "") => {
            let width = convert::length("bucket", width)?;
            if width < MIN_BUCKET {
                return Err(errors::invalid("bucket", "must be at least 1 s"));
            }
            ("bucket", Window::fixed(width, zone))
        }
        (None, period) => ("bucket_calendar", Window::calendar(period, zone)),
        (Some(_), _) => return Err(errors::invalid("bucket_calendar", "give either bucket or bucket_calendar")),
    };
    window.map(Some).map_err(|error| {
        let field = if matches!(error, stores::query::WindowError::Zone(_)) { "time_zone" } else { field };
        errors::invalid(field, error.to_string())
    })
}

fn function(index: usize, spec: &AggregateSpec) -> Result<Aggregate, Status> {
    use AggregateFunction as F;
    Ok(match F::try_from(spec.function) {
        Ok(F::Count) => Aggregate::Count,
        Ok(F::Mean) => Aggregate::Mean,
        Ok(F::TimeWeightedMean) => Aggregate::TimeWeightedMean,
        Ok(F::Min) => Aggregate::Min,
        Ok(F::Max) => Aggregate::Max,
        Ok(F::Sum) => Aggregate::Sum,
        Ok(F::First) => Aggregate::First,
        Ok(F::Last) => Aggregate::Last,
        Ok(F::Stddev) => Aggregate::Stddev,
        Ok(F::Increase) => Aggregate::Increase,
        Ok(F::Percentile) if (0.0..=100.0).contains(&spec.percentile) => Aggregate::Percentile(spec.percentile),
        Ok(F::Percentile) => {
            return Err(errors::invalid(&format!("aggregates[{index}].percentile"), "must be 0 to 100"));
        }
        Ok(F::Unspecified) | Err(_) => {
            return Err(errors::invalid(&format!("aggregates[{index}].function"), "is required"));
        }
    })
}
