//! Conversion of types into messages between processes, and back.

use std::sync::Arc;
use std::time::Duration;

use model::{DeviceKey, Value};
use proto::internal::v1 as wire;
use stores::contract::{BookLine, HourLine, LatestState, LatestValue};
use tonic::Status;

use crate::status::{SinkState, SinkStatus};

pub(super) fn state(state: LatestState) -> wire::State {
    wire::State {
        device: state.device.id.to_string(),
        first_seen: state.first_seen,
        last_seen: state.last_seen,
        readings: state.readings,
        clock_skew: state.clock_skew,
        values: state.values.into_iter().map(value).collect(),
    }
}

fn value(held: LatestValue) -> wire::StateValue {
    let value = match held.value {
        Value::Float(v) => wire::state_value::Value::Float(v),
        Value::Int(v) => wire::state_value::Value::Int(v),
        Value::Bool(v) => wire::state_value::Value::Bool(v),
        Value::Str(v) => wire::state_value::Value::Str(v.to_string()),
    };
    wire::StateValue {
        name: held.name.to_string(),
        value: Some(value),
        time: held.time,
        seq: held.seq,
        received: held.received,
        order: (held.order != held.time).then_some(held.order),
    }
}

pub(super) fn read_state(tenant: &Arc<str>, state: wire::State) -> Result<LatestState, Status> {
    let values = state.values.into_iter().map(read_value).collect::<Option<Vec<_>>>();
    Ok(LatestState {
        device: DeviceKey { tenant: Arc::clone(tenant), id: state.device.into() },
        first_seen: state.first_seen,
        last_seen: state.last_seen,
        readings: state.readings,
        clock_skew: state.clock_skew,
        values: values.ok_or_else(|| Status::data_loss("a value of a latest state has no type"))?,
    })
}

fn read_value(held: wire::StateValue) -> Option<LatestValue> {
    let value = match held.value? {
        wire::state_value::Value::Float(v) => Value::Float(v),
        wire::state_value::Value::Int(v) => Value::Int(v),
        wire::state_value::Value::Bool(v) => Value::Bool(v),
        wire::state_value::Value::Str(v) => Value::Str(v.into()),
    };
    let wire::StateValue { name, time, seq, received, order, .. } = held;
    Some(LatestValue { name: name.into(), value, time, order: order.unwrap_or(time), seq, received })
}

pub(super) fn line(line: BookLine) -> wire::BookLine {
    wire::BookLine {
        tenant: line.tenant.to_string(),
        sink: line.sink,
        accepted: line.accepted,
        stored: line.stored,
        merged: line.merged,
        pending: line.pending,
        dead_lettered: line.dead_lettered,
        expected: line.expected,
        hours: line.hours.iter().map(|h| wire::BookHour { hour: h.hour, expected: h.expected }).collect(),
    }
}

pub(super) fn read_line(line: wire::BookLine) -> BookLine {
    BookLine {
        tenant: line.tenant.into(),
        sink: line.sink,
        accepted: line.accepted,
        stored: line.stored,
        merged: line.merged,
        pending: line.pending,
        dead_lettered: line.dead_lettered,
        held: None,
        expected: line.expected,
        hours: line.hours.iter().map(|h| HourLine { hour: h.hour, expected: h.expected, held: None }).collect(),
    }
}

pub(super) fn sink(status: SinkStatus) -> wire::Sink {
    use wire::sink::State;
    let (state, reason, lasting) = match status.state {
        SinkState::Running => (State::Running, String::new(), Duration::ZERO),
        SinkState::Retrying { reason, lasting } => (State::Retrying, reason, lasting),
        SinkState::Paused { reason, lasting } => (State::Paused, reason, lasting),
        SinkState::Ended { reason } => (State::Ended, reason, Duration::ZERO),
    };
    wire::Sink {
        log: status.log,
        sink: status.sink.to_string(),
        kind: status.kind.to_string(),
        state: state.into(),
        reason,
        lasting_ms: u64::try_from(lasting.as_millis()).unwrap_or(u64::MAX),
        done_to: status.done_to,
        lag_records: status.lag_records,
        lag_bytes: status.lag_bytes,
        lag_seconds: status.lag_seconds,
        paused: status.paused,
        refused: status.refused,
    }
}

pub(super) fn read_sink(sink: wire::Sink) -> SinkStatus {
    use wire::sink::State;
    let lasting = Duration::from_millis(sink.lasting_ms);
    let state = match sink.state() {
        State::Running | State::Unspecified => SinkState::Running,
        State::Retrying => SinkState::Retrying { reason: sink.reason, lasting },
        State::Paused => SinkState::Paused { reason: sink.reason, lasting },
        State::Ended => SinkState::Ended { reason: sink.reason },
    };
    SinkStatus {
        log: sink.log,
        sink: sink.sink.into(),
        kind: sink.kind.into(),
        state,
        done_to: sink.done_to,
        lag_records: sink.lag_records,
        lag_bytes: sink.lag_bytes,
        lag_seconds: sink.lag_seconds,
        paused: sink.paused,
        refused: sink.refused,
    }
}
