//! Which topics are telemetry, and how their payloads are read: an ordered list of `[[route]]` tables.

mod glob;
mod template;
mod topic;

use std::sync::Arc;

use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

pub(crate) use glob::Glob;
pub(crate) use template::{Part, Template};
pub(crate) use topic::{Captures, Pattern};

/// One `[[route]]` table, as written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Route {
    /// Topic templates: levels are literal, `+`, `#` (last), text with `{capture}` for a level or a part of one, or `{capture...}`
    /// for one or more levels.
    pub topic: OneOrMany,
    /// What to do with what it takes.
    pub kind: Kind,
    /// How the payload is written.
    pub format: Format,
    /// Template of the device id: `{capture}` from the topic, `{$.name}` from the payload.
    pub device: String,
    /// Put before every name, with a dot; a template of captures.
    pub prefix: String,
    /// Name of a bare value; a template of captures.
    pub field: String,
    /// Names whose value is the reading's time, the first that is there.
    pub time: OneOrMany,
    /// Zone of local times without an offset.
    pub zone: String,
    /// Names to take, as globs; all when empty.
    pub include: Vec<String>,
    /// Names to leave out, as globs.
    pub exclude: Vec<String>,
    /// Text values.
    pub strings: Strings,
    /// Messages that were retained by another broker and are sent again.
    pub retained: RetainedMessages,
}

impl Default for Route {
    fn default() -> Self {
        Self {
            topic: OneOrMany::Many(Vec::new()),
            kind: Kind::Data,
            format: Format::JsonOrValue,
            device: "{device}".into(),
            prefix: String::new(),
            field: "value".into(),
            time: OneOrMany::Many(["ts", "time", "timestamp"].map(Into::into).into()),
            zone: "UTC".into(),
            include: Vec::new(),
            exclude: Vec::new(),
            strings: Strings::Keep,
            retained: RetainedMessages::Accept,
        }
    }
}

/// A string or a list of strings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum OneOrMany {
    /// One.
    One(String),
    /// A list.
    Many(Vec<String>),
}

impl OneOrMany {
    fn all(&self) -> &[String] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }
}

/// What a route is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Readings.
    Data,
    /// Not telemetry, whatever later routes say: a plain message for subscribers.
    Ignore,
}

/// How a payload is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// A JSON document.
    Json,
    /// A bare value: number, boolean or text.
    Value,
    /// A JSON document when it begins with `{`, `[` or `"`, else a bare value.
    JsonOrValue,
}

/// Text values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strings {
    /// Are stored.
    Keep,
    /// Are left out; a time or a device id is still read from them.
    Drop,
}

/// Messages with the retain flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RetainedMessages {
    /// Are read like any other.
    Accept,
    /// Are no telemetry.
    Skip,
}

/// A fault in a `[[route]]` table.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("route {number}, key `{key}`: {what}")]
pub struct RouteError {
    /// Its place in the list, from 1.
    pub number: usize,
    /// Which key.
    pub key: &'static str,
    /// What is wrong with it.
    pub what: String,
}

/// The routes of a configuration that has none.
pub fn default_routes() -> Vec<Route> {
    let route = |topic: &str| Route { topic: OneOrMany::One(topic.into()), ..Route::default() };
    vec![
        route("devices/{device}/telemetry"),
        Route { prefix: "{name}".into(), field: "{name}".into(), ..route("devices/{device}/telemetry/{name}") },
    ]
}

/// Checked routes.
#[derive(Debug)]
pub struct Routes {
    routes: Vec<Arc<Compiled>>,
}

/// A checked route.
#[derive(Debug)]
pub(crate) struct Compiled {
    pub(crate) number: usize,
    pub(crate) patterns: Vec<Pattern>,
    pub(crate) kind: Kind,
    pub(crate) format: Format,
    pub(crate) device: Template,
    pub(crate) prefix: Template,
    pub(crate) field: Template,
    pub(crate) time: Vec<String>,
    pub(crate) zone: TimeZone,
    pub(crate) include: Vec<Glob>,
    pub(crate) exclude: Vec<Glob>,
    pub(crate) strings: Strings,
    pub(crate) retained: RetainedMessages,
}

impl Routes {
    /// Checks routes; none are the default ones.
    ///
    /// # Errors
    /// [`RouteError`] for the first fault: it names the route and the key.
    pub fn new(routes: &[Route]) -> Result<Self, RouteError> {
        let defaults;
        let routes = if routes.is_empty() {
            defaults = default_routes();
            &defaults
        } else {
            routes
        };
        let compiled: Result<Vec<_>, _> =
            routes.iter().enumerate().map(|(i, route)| compile(i + 1, route).map(Arc::new)).collect();
        let routes = Self { routes: compiled? };
        routes.check_reachable()?;
        Ok(routes)
    }

    /// The first route that takes a topic, and what its template captured.
    pub(crate) fn find(&self, topic: &str) -> Option<(&Arc<Compiled>, Captures)> {
        self.routes.iter().find_map(|route| {
            let captures = route.patterns.iter().find_map(|p| p.captures(topic))?;
            Some((route, captures))
        })
    }

    /// A template that an earlier one takes whole is never used.
    fn check_reachable(&self) -> Result<(), RouteError> {
        for (i, route) in self.routes.iter().enumerate() {
            for pattern in &route.patterns {
                let before = self.routes[..i].iter().find(|r| r.patterns.iter().any(|p| p.covers(pattern)));
                if let Some(before) = before {
                    let what = format!("`{pattern}` is never reached: route {} takes all of it", before.number);
                    return Err(RouteError { number: route.number, key: "topic", what });
                }
            }
        }
        Ok(())
    }
}

fn compile(number: usize, route: &Route) -> Result<Compiled, RouteError> {
    let fault = |key: &'static str| move |what: String| RouteError { number, key, what };
    let topics = route.topic.all();
    if topics.is_empty() {
        return Err(fault("topic")("a route needs at least one topic template".into()));
    }
    let patterns: Vec<Pattern> =
        topics.iter().map(|t| Pattern::parse(t)).collect::<Result<_, _>>().map_err(fault("topic"))?;
    let template = |key: &'static str, text: &str, payload: bool| {
        let template = Template::parse(text).map_err(fault(key))?;
        for part in template.parts() {
            match part {
                Part::Capture(name) if !patterns.iter().all(|p| p.has_capture(name)) => {
                    return Err(fault(key)(format!("`{{{name}}}` is not captured by every topic template")));
                }
                Part::Payload(_) if !payload => {
                    return Err(fault(key)("a value of the payload cannot be used here".into()));
                }
                _ => {}
            }
        }
        Ok(template)
    };
    let globs = |list: &[String]| list.iter().map(|g| Glob::new(g)).collect();
    let ignore = route.kind == Kind::Ignore;
    Ok(Compiled {
        number,
        kind: route.kind,
        format: route.format,
        device: if ignore { Template::default() } else { template("device", &route.device, true)? },
        prefix: template("prefix", &route.prefix, false)?,
        field: template("field", &route.field, false)?,
        time: route.time.all().to_vec(),
        zone: TimeZone::get(&route.zone).map_err(|_| fault("zone")(format!("no time zone {}", route.zone)))?,
        include: globs(&route.include),
        exclude: globs(&route.exclude),
        strings: route.strings,
        retained: route.retained,
        patterns,
    })
}

#[cfg(test)]
mod tests;
