//! Selection of the values of a message that are stored.

use model::{Nanos, ValueRef};

use crate::decode::coercion::Coerced;
use crate::decode::plain::{self, Parsed};
use crate::decode::time::{self, Claim, Timing};
use crate::decode::{Refusal, Scratch, Slot, is_not_finite, long_name};
use crate::limits::Limits;
use crate::routes::{Compiled, Rule, Shaped, Strings, TimeSource};

/// Prefix of values in messages of ThingsBoard clients: `{"ts": …, "values": {…}}`.
const WRAPPER: &str = "values.";

/// Moves the time of a row out of its values: the first that can be used, or else the first that is
/// a time at all. What is not a time stays a value.
pub(crate) fn take_time(route: &Compiled, at: usize, limits: &Limits, scratch: &mut Scratch) {
    let row = scratch.rows[at];
    let mut choice = Choice::new(limits.latest(scratch.received));
    for (number, source) in route.time.iter().enumerate() {
        let TimeSource::Name(name, _) = source else { continue };
        let Some(field) = scratch.find(row, name) else { continue };
        let claim = choice.offer(route, number, scratch.value(scratch.fields[field].value), field);
        if let Claim::Usable(_) = claim {
            break;
        }
    }
    let (timing, taken) = choice.end();
    for field in taken {
        scratch.remove_like(row, field);
    }
    scratch.rows[at].timing = timing;
}

/// The choice of a row's time among several.
#[derive(Debug)]
pub(crate) struct Choice<P> {
    latest: Nanos,
    best: Option<(Claim, Option<P>)>,
    /// Places of times without content.
    empty: Vec<P>,
}

impl<P> Choice<P> {
    /// A choice in which times later than `latest` are ahead.
    pub(crate) fn new(latest: Nanos) -> Self {
        Self { latest, best: None, empty: Vec::new() }
    }

    /// Offers the value of a time source, found at `place`. A usable time ends the choice.
    pub(crate) fn offer(&mut self, route: &Compiled, source: usize, value: ValueRef<'_>, place: P) -> Claim {
        let claim = time::read(value, &route.times, self.latest);
        let better = match (claim, &self.best) {
            (Claim::Usable(_), _) => true,
            (Claim::Empty, _) => {
                self.empty.push(place);
                return claim;
            }
            _ if route.duration == Some(source) && time::is_duration(claim, value) => return claim,
            (Claim::Ahead(_) | Claim::Implausible(_), best) => {
                best.as_ref().is_none_or(|(best, _)| *best == Claim::Unreadable)
            }
            (Claim::Unreadable, best) => best.is_none(),
        };
        if better {
            self.best = Some((claim, (claim != Claim::Unreadable).then_some(place)));
        }
        claim
    }

    /// Returns the time, and the places that are no values.
    pub(crate) fn end(self) -> (Timing, impl Iterator<Item = P>) {
        let timing = match &self.best {
            Some((claim, _)) => claim.timing(),
            None if self.empty.is_empty() => Timing::default(),
            None => Claim::Empty.timing(),
        };
        (timing, self.best.and_then(|(_, place)| place).into_iter().chain(self.empty))
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

/// Removes the prefix `values.` from the names of a row with a time, if all of them have it. A time
/// that cannot be read stays beside them.
pub(crate) fn unwrap_values(route: &Compiled, at: usize, scratch: &mut Scratch) {
    let row = scratch.rows[at];
    if !row.timing.removed && !row.timing.unusable {
        return;
    }
    let is_time = |name: &str| {
        row.timing.unusable
            && route.time.iter().any(|source| matches!(source, TimeSource::Name(time, _) if time == name))
    };
    let wrapped = |name: &str| name.starts_with(WRAPPER);
    if !scratch.live(row).map(|field| scratch.own_name(field)).all(|name| wrapped(name) || is_time(name)) {
        return;
    }
    for field in row.first..row.end {
        if scratch.fields[field].live && wrapped(scratch.own_name(&scratch.fields[field])) {
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
    let value = match (scratch.value(field.value), rule) {
        (ValueRef::Str(text), rule) if rule.is_none_or(Rule::allows_coercion) => match route.coercion.apply(text) {
            Coerced::Same => ValueRef::Str(text),
            Coerced::Absent => {
                scratch.fields[at].live = false;
                scratch.absent += 1;
                return Ok(());
            }
            Coerced::Int(v) => ValueRef::Int(v),
            Coerced::Float(v) => ValueRef::Float(v),
        },
        (value, _) => value,
    };
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
                _ if is_not_finite(text.trim()) => Shaped::Absent,
                _ => Shaped::Same,
            }
        }
        (Shaped::Same, _, ValueRef::Int(v)) => Shaped::Int(v),
        (Shaped::Same, _, ValueRef::Float(v)) => Shaped::Float(v),
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
