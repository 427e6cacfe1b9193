//! Messages of routes that find values by path, condition or template in the payload.

use crate::binding::Candidate;
use crate::decode::flat::ARRAY_AT_THE_TOP;
use crate::decode::tree::{self, Node};
use crate::decode::{Class, Refusal, Scratch, Slot, Span};
use crate::limits::Limits;
use crate::presence;
use crate::reader::is_json;
use crate::routes::{Compiled, PathContext, Presence, Role, TimeSource};
use crate::select;

/// Reads the rows of a message. False when the conditions of the route are not met.
pub(crate) fn rows(
    payload: &[u8],
    number: usize,
    candidate: &Candidate,
    limits: &Limits,
    scratch: &mut Scratch,
) -> Result<bool, Refusal> {
    let route = &candidate.route;
    let document = if is_json(payload, route.format) { tree::json(payload, limits)? } else { tree::value(payload)? };
    let top = [&document];
    let place = PathContext { document: &document, chain: &top };
    if !route.when.payload_holds(place, true) {
        return Ok(false);
    }
    match &route.role {
        Role::Ignored => return Ok(true),
        Role::Presence(presence) => {
            presence_row(presence, place, number, candidate, limits, scratch)?;
            return Ok(true);
        }
        Role::Streamed | Role::Tree => {}
    }
    let rows = find_rows(route, place, limits)?;
    let all = rows.len();
    let mut taken = 0;
    for chain in &rows {
        let place = PathContext { document: &document, chain };
        if route.when.payload_holds(place, false) {
            row(place, number, candidate, limits, scratch)?;
            taken += 1;
        }
    }
    Ok(taken > 0 || all == 0)
}

/// Returns the rows, each with the objects around it, outermost first.
fn find_rows<'t>(route: &Compiled, place: PathContext<'t>, limits: &Limits) -> Result<Vec<Vec<&'t Node<'t>>>, Refusal> {
    let mut rows: Vec<Vec<&Node<'_>>> = Vec::new();
    // One more than the limit, so that an excess is noticed and not held.
    let room = limits.max_readings + 1;
    if route.each.is_empty() {
        match place.document {
            Node::Array(elements) if elements.iter().all(|e| matches!(e, Node::Object(_))) => {
                rows.extend(elements.iter().take(room).map(|element| vec![element]));
            }
            Node::Array(_) if route.value.is_empty() && route.root.is_empty() => {
                return Err(Refusal::new(Class::Json, ARRAY_AT_THE_TOP));
            }
            document => rows.push(vec![document]),
        }
    }
    for path in &route.each {
        path.find(place, &mut |node, above| {
            let elements = match node {
                Node::Absent => &[],
                Node::Array(elements) => &elements[..],
                node => std::slice::from_ref(node),
            };
            for element in elements.iter().filter(|e| **e != Node::Absent).take(room.saturating_sub(rows.len())) {
                rows.push(above.iter().copied().chain([element]).collect());
            }
        });
    }
    if rows.len() > limits.max_readings {
        return Err(Refusal::limit(format!("more than {} readings in one message", limits.max_readings)));
    }
    Ok(rows)
}

fn row(
    place: PathContext<'_>,
    number: usize,
    candidate: &Candidate,
    limits: &Limits,
    scratch: &mut Scratch,
) -> Result<(), Refusal> {
    let (route, captures) = (&candidate.route, &candidate.captures);
    scratch.begin_row(number, limits)?;
    let prefix = route.prefix.render(captures, Some(place)).unwrap_or_default();
    let (time, time_node) = time_of(place, candidate, scratch);
    if !route.value.is_empty() {
        let value = route.value.iter().find_map(|path| path.first(place));
        match (value, route.field.render(captures, Some(place))) {
            (Some(value), Ok(field)) => {
                scratch.set_name(&field);
                value.flatten(time_node, limits, scratch)?;
            }
            _ => scratch.absent += 1,
        }
    }
    for path in &route.root {
        let mut found = Vec::new();
        path.find(place, &mut |node, _| found.push(node));
        for node in found {
            scratch.set_prefix(&prefix);
            if !matches!(node, Node::Object(_)) {
                scratch.path.push_str(path.last_key().unwrap_or_default());
            }
            node.flatten(time_node, limits, scratch)?;
        }
    }
    if route.value.is_empty() && route.root.is_empty() {
        let node = place.chain[place.chain.len() - 1];
        match node {
            Node::Object(_) => scratch.set_prefix(&prefix),
            _ => scratch.set_name(&route.field.render(captures, Some(place)).unwrap_or_default()),
        }
        node.flatten(time_node, limits, scratch)?;
    }
    let at = scratch.rows.len() - 1;
    scratch.rows[at].time = time;
    select::take_seq(at, scratch);
    select::unwrap_values(at, scratch);
    device(place, candidate, at, scratch)
}

/// Returns the first time that is present, and the node that holds it.
fn time_of<'t>(
    place: PathContext<'t>,
    candidate: &Candidate,
    scratch: &mut Scratch,
) -> (Option<(Slot, Span)>, Option<&'t Node<'t>>) {
    for source in &candidate.route.time {
        match source {
            TimeSource::Name(_, path) | TimeSource::Path(path) => {
                if let Some(node) = path.first(place)
                    && let Some(slot) = node.slot(scratch)
                {
                    return (Some((slot, scratch.put(&path.to_string()))), Some(node));
                }
            }
            TimeSource::Template(template) => {
                if let Ok(text) = template.render(&candidate.captures, Some(place)) {
                    let slot = Slot::Text(scratch.put(&text));
                    return (Some((slot, scratch.put(template.text()))), None);
                }
            }
        }
    }
    (None, None)
}

fn device(place: PathContext<'_>, candidate: &Candidate, at: usize, scratch: &mut Scratch) -> Result<(), Refusal> {
    if candidate.device.is_none() {
        let id = candidate.route.device.render(&candidate.captures, Some(place));
        let id = id.map_err(|what| Refusal::new(Class::Device, format!("no device id: {what}")))?;
        scratch.rows[at].device = Some(scratch.put(&id));
    }
    Ok(())
}

fn presence_row(
    presence: &Presence,
    place: PathContext<'_>,
    number: usize,
    candidate: &Candidate,
    limits: &Limits,
    scratch: &mut Scratch,
) -> Result<(), Refusal> {
    let (route, captures) = (&candidate.route, &candidate.captures);
    let online = presence::read(presence, captures, place)?;
    scratch.begin_row(number, limits)?;
    scratch.set_name(&route.field.render(captures, Some(place)).unwrap_or_default());
    scratch.add(Slot::Bool(online), limits)?;
    device(place, candidate, scratch.rows.len() - 1, scratch)
}
