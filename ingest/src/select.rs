//! Selection of the values of a message that are stored.

use model::ValueRef;

use crate::decode::plain::{self, Parsed};
use crate::decode::{Refusal, Scratch, Slot, long_name};
use crate::limits::Limits;
use crate::routes::{Compiled, Shaped, Strings, TimeSource};

/// Prefix of values in messages of ThingsBoard clients: `{"ts": …, "values": {…}}`.
const WRAPPER: &str = "values.";

/// Moves the first time of a row out of its values.
pub(crate) fn take_time(sources: &[TimeSource], at: usize, scratch: &mut Scratch) {
    let row = scratch.rows[at];
    let found = sources.iter().find_map(|source| match source {
        TimeSource::Name(name, _) => scratch.find(row, name),
        TimeSource::Path(_) | TimeSource::Template(_) => None,
    });
    if let Some(field) = found {
        scratch.rows[at].time = Some((scratch.fields[field].value, scratch.fields[field].own_span()));
        scratch.remove_like(row, field);
    }
}

/// Moves `seq` out of a row's values, if it is a counter.
pub(crate) fn take_seq(at: usize, scratch: &mut Scratch) {
    if let Some(field) = scratch.find(scratch.rows[at], "seq")
        && let Slot::Int(n) = scratch.fields[field].value
        && let Ok(seq) = u64::try_from(n)
    {
        scratch.rows[at].seq = Some(seq);
        scratch.remove_like(scratch.rows[at], field);
    }
}

/// Removes the prefix `values.` from the names of a row with a time, if all of them have it.
pub(crate) fn unwrap_values(at: usize, scratch: &mut Scratch) {
    let row = scratch.rows[at];
    if row.time.is_none() || !scratch.live(row).all(|field| scratch.own_name(field).starts_with(WRAPPER)) {
        return;
    }
    for field in row.first..row.end {
        if scratch.fields[field].live {
            scratch.shorten(field, WRAPPER.len());
        }
    }
}

/// Applies a route's `include`, `exclude`, `fields` and `strings` to a row.
pub(crate) fn select(route: &Compiled, at: usize, limits: &Limits, scratch: &mut Scratch) -> Result<(), Refusal> {
    let row = scratch.rows[at];
    for field in row.first..row.end {
        if scratch.fields[field].live {
            select_field(route, field, limits, scratch)?;
        }
    }
    Ok(())
}

fn select_field(route: &Compiled, at: usize, limits: &Limits, scratch: &mut Scratch) -> Result<(), Refusal> {
    let field = scratch.fields[at];
    let own = scratch.own_name(&field);
    let rule = route.fields.rule(own);
    if !route.wants(own) || rule.is_some_and(|rule| rule.drop) {
        scratch.fields[at].live = false;
        return Ok(());
    }
    let value = scratch.value(field.value);
    let shaped = rule.map_or(Shaped::Same, |rule| rule.shape(value));
    let shaped = match (shaped, route.strings, value) {
        (Shaped::Same, Strings::Drop, ValueRef::Str(_)) => {
            scratch.fields[at].live = false;
            return Ok(());
        }
        (Shaped::Same, Strings::Numbers, ValueRef::Str(text)) if rule.is_none_or(|rule| rule.is_untyped()) => {
            match plain::plain_number(text) {
                Some(Parsed::Int(v)) => Shaped::Int(v),
                Some(Parsed::Float(v)) => Shaped::Float(v),
                _ => Shaped::Same,
            }
        }
        (shaped, ..) => shaped,
    };
    match shaped {
        Shaped::Same => {}
        Shaped::Absent => {
            scratch.fields[at].live = false;
            scratch.absent += 1;
        }
        Shaped::Float(v) => scratch.fields[at].value = Slot::Float(v),
        Shaped::Int(v) => scratch.fields[at].value = Slot::Int(v),
        Shaped::Bool(v) => scratch.fields[at].value = Slot::Bool(v),
        Shaped::Text(text) => scratch.fields[at].value = scratch.slot(ValueRef::Str(&text)),
    }
    if let Some(name) = rule.and_then(|rule| rule.name.as_deref()) {
        scratch.rename(at, name);
        let name = scratch.name(&scratch.fields[at]);
        if name.len() > limits.max_name_bytes {
            return Err(long_name(name, limits));
        }
    }
    Ok(())
}
