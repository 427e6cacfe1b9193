//! Messages of routes that find values by path, condition or template in the payload.

use model::ValueRef;

use crate::binding::Candidate;
use crate::decode::flat::ARRAY_AT_THE_TOP;
use crate::decode::time::{Claim, Timing};
use crate::decode::tree::{self, Node};
use crate::decode::{Class, JsonText, Refusal, Scratch, Slot};
use crate::limits::Limits;
use crate::presence;
use crate::routes::{Compiled, Path, PathContext, Presence, Role, TimeSource};
use crate::select::{self, Choice};

/// The outcome of a document.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outcome {
    /// False when the conditions of the route are not met.
    pub(crate) holds: bool,
    /// Position of a further document.
    pub(crate) next: Option<usize>,
}

/// A part of a payload, and the form in which a route reads it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Document<'a> {
    Json(JsonText<'a>),
    Value(&'a [u8]),
}

/// A row: a node behind the objects around it, and the captured names of members.
struct Row<'t> {
    chain: Vec<&'t Node<'t>>,
    keys: Vec<(&'t str, &'t str)>,
}

/// Reads the rows of a document.
pub(crate) fn rows(
    document: Document<'_>,
    number: usize,
    candidate: &Candidate,
    limits: &Limits,
    scratch: &mut Scratch,
) -> Result<Outcome, Refusal> {
    let route = &candidate.route;
    let (document, next) = match document {
        Document::Json(text) => tree::json(text, &route.json_text, limits)?,
        Document::Value(payload) => (tree::value(payload, route.bare())?, None),
    };
    let top = [&document];
    let place = PathContext { document: &document, chain: &top, keys: &[] };
    if !route.when.payload_holds(place, true) {
        return Ok(Outcome { holds: false, next });
    }
    match &route.role {
        Role::Ignored => return Ok(Outcome { holds: true, next }),
        Role::Presence(presence) => {
            presence_row(presence, place, number, candidate, limits, scratch)?;
            return Ok(Outcome { holds: true, next });
        }
        Role::Streamed | Role::Tree => {}
    }
    let rows = find_rows(route, place, limits, scratch)?;
    let all = rows.len();
    let mut taken = 0;
    for Row { chain, keys } in &rows {
        let place = PathContext { document: &document, chain, keys };
        if route.when.payload_holds(place, false) {
            row(place, number, candidate, limits, scratch)?;
            taken += 1;
        }
    }
    Ok(Outcome { holds: taken > 0 || all == 0, next })
}

/// Returns the rows.
fn find_rows<'t>(
    route: &'t Compiled,
    place: PathContext<'t>,
    limits: &Limits,
    scratch: &mut Scratch,
) -> Result<Vec<Row<'t>>, Refusal> {
    let mut rows: Vec<Row<'_>> = Vec::new();
    let row = |node| Row { chain: vec![node], keys: Vec::new() };
    // One more than the limit, so that an excess is noticed and not held.
    let room = limits.max_readings + 1;
    if route.each.is_empty() {
        match place.document {
            Node::Array(elements) if elements.iter().all(|e| matches!(e, Node::Object(_) | Node::Absent)) => {
                rows.extend(elements.iter().filter(|e| **e != Node::Absent).take(room).map(row));
            }
            Node::Array(_) if route.value.is_empty() && route.root.is_empty() => {
                return Err(Refusal::new(Class::Json, ARRAY_AT_THE_TOP));
            }
            document => rows.push(row(document)),
        }
    }
    let mut found = route.each.is_empty();
    for path in &route.each {
        let names = path.keys();
        path.find(place, &mut |node, above, keys| {
            found = true;
            for element in elements(node, path).filter(|e| **e != Node::Absent).take(room.saturating_sub(rows.len())) {
                let chain = above.iter().copied().chain([element]).collect();
                rows.push(Row { chain, keys: names.iter().copied().zip(keys.iter().copied()).collect() });
            }
        });
    }
    if !found {
        scratch.miss(|| nothing(route, "each", &route.each));
    }
    if rows.len() > limits.max_readings {
        return Err(Refusal::limit(format!("more than {} readings in one message", limits.max_readings)));
    }
    Ok(rows)
}

/// Returns the rows of a node that `each` found. An array is a row for each element, except one
/// that a wildcard found and that is itself a row: `[time, value]`.
fn elements<'t>(node: &'t Node<'t>, path: &Path) -> std::slice::Iter<'t, Node<'t>> {
    match node {
        Node::Array(elements)
            if !path.ends_in_wildcard() || elements.iter().all(|e| matches!(e, Node::Object(_) | Node::Absent)) =>
        {
            elements.iter()
        }
        node => std::slice::from_ref(node).iter(),
    }
}

fn nothing(route: &Compiled, key: &str, paths: &[Path]) -> String {
    let paths: Vec<String> = paths.iter().map(ToString::to_string).collect();
    format!("no value: `{key}` of route {} ({}) finds nothing in the payload", route.number, paths.join(", "))
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
    let (timing, time_nodes) = time_of(place, candidate, limits, scratch);
    if !route.value.is_empty() {
        named_value(place, candidate, &time_nodes, limits, scratch)?;
    }
    let mut nodes = 0;
    for path in &route.root {
        let mut found = Vec::new();
        path.find(place, &mut |node, _, _| found.push(node));
        for node in found {
            scratch.set_prefix(&prefix);
            scratch.enter_node(nodes);
            nodes += 1;
            if !matches!(node, Node::Object(_)) {
                scratch.path.push_str(path.last_key().unwrap_or_default());
            }
            node.flatten(&time_nodes, limits, scratch)?;
        }
    }
    if nodes == 0 && !route.root.is_empty() {
        scratch.miss(|| nothing(route, "root", &route.root));
    }
    if route.value.is_empty() && route.root.is_empty() {
        let node = place.chain[place.chain.len() - 1];
        match node {
            Node::Object(_) => scratch.set_prefix(&prefix),
            _ => scratch.set_name(&route.field.render(captures, Some(place)).unwrap_or_default()),
        }
        node.flatten(&time_nodes, limits, scratch)?;
    }
    let at = scratch.rows.len() - 1;
    scratch.rows[at].timing = timing;
    select::take_seq(at, scratch);
    select::unwrap_values(route, at, scratch);
    device(place, candidate, at, scratch)
}

/// Adds what `value` finds, under the name of `field`.
fn named_value(
    place: PathContext<'_>,
    candidate: &Candidate,
    time_nodes: &[&Node<'_>],
    limits: &Limits,
    scratch: &mut Scratch,
) -> Result<(), Refusal> {
    let route = &candidate.route;
    let mut is_null = false;
    let value = route.value.iter().find_map(|path| {
        path.find(place, &mut |node, _, _| is_null |= *node == Node::Absent);
        path.first(place)
    });
    match (value, route.field.render(&candidate.captures, Some(place))) {
        (Some(value), Ok(field)) => {
            scratch.set_name(&field);
            value.flatten(time_nodes, limits, scratch)?;
        }
        (Some(_), Err(what)) => {
            scratch.miss(|| format!("no value: `field` of route {}: {what}", route.number));
        }
        (None, _) if is_null => scratch.absent += 1,
        (None, _) => scratch.miss(|| nothing(route, "value", &route.value)),
    }
    Ok(())
}

/// Returns the time of a row, and the nodes that are no values because of it.
fn time_of<'t>(
    place: PathContext<'t>,
    candidate: &Candidate,
    limits: &Limits,
    scratch: &Scratch,
) -> (Timing, Vec<&'t Node<'t>>) {
    let route = &candidate.route;
    let mut choice = Choice::new(limits.latest(scratch.received));
    for (number, source) in route.time.iter().enumerate() {
        let claim = match source {
            TimeSource::Name(_, path) | TimeSource::Path(path) => {
                let Some(node) = path.first(place) else { continue };
                let Some(value) = node.scalar() else { continue };
                choice.offer(route, number, value, Some(node))
            }
            TimeSource::Template(template) => {
                let Ok(text) = template.render(&candidate.captures, Some(place)) else { continue };
                choice.offer(route, number, ValueRef::Str(&text), None)
            }
        };
        if let Claim::Usable(_) = claim {
            break;
        }
    }
    let (timing, nodes) = choice.end();
    (timing, nodes.flatten().collect())
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
