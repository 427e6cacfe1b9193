//! Routes: the topics that are telemetry, and the way to read their payloads. An ordered list of
//! `[[route]]` tables.

mod compile;
mod condition;
pub mod config;
mod fields;
mod path;
mod template;
mod topic;

use std::sync::Arc;

pub(crate) use compile::{Compiled, Presence, Role, TimeSource};
pub use config::{
    Condition, Decimal, Epoch, FieldRule, FieldType, Format, Kind, Literal, OneOrMany, RetainedMessages, Route, Strings,
};
pub(crate) use fields::{Rule, Shaped};
pub(crate) use path::{Path, PathContext};
pub(crate) use template::Template;
pub(crate) use topic::Captures;

pub use config::default_routes;

/// A fault in a `[[route]]` table.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("route {number}, key `{key}`: {what}")]
pub struct RouteError {
    /// Position of the route in the list, from 1.
    pub number: usize,
    /// The key at fault.
    pub key: &'static str,
    /// The fault.
    pub what: String,
}

/// Checked routes.
#[derive(Debug)]
pub struct Routes {
    routes: Vec<Arc<Compiled>>,
}

impl Routes {
    /// Checks routes. An empty list means the default routes.
    ///
    /// # Errors
    /// [`RouteError`] for the first fault.
    pub fn new(routes: &[Route]) -> Result<Self, RouteError> {
        let defaults;
        let routes = if routes.is_empty() {
            defaults = default_routes();
            &defaults
        } else {
            routes
        };
        let compiled = routes.iter().enumerate().map(|(i, route)| compile::compile(i + 1, route).map(Arc::new));
        let routes = Self { routes: compiled.collect::<Result<_, _>>()? };
        routes.check_reachable()?;
        Ok(routes)
    }

    /// The routes that may take messages of a topic, in order, with what their templates captured.
    /// The first that takes all of them is the last.
    pub(crate) fn find(&self, topic: &str, client: &str) -> Vec<(Arc<Compiled>, Captures)> {
        let mut found = Vec::new();
        for route in &self.routes {
            let Some(mut captures) = route.patterns.iter().find_map(|p| p.captures(topic)) else { continue };
            captures.add_client(client);
            if !route.when.topic_holds(&captures) {
                continue;
            }
            let ends = !route.when.reads_payload() && !route.go_on && route.retained == RetainedMessages::Accept;
            found.push((Arc::clone(route), captures));
            if ends {
                break;
            }
        }
        found
    }

    /// Refuses a template whose topics all match an earlier route.
    fn check_reachable(&self) -> Result<(), RouteError> {
        for (i, route) in self.routes.iter().enumerate() {
            for pattern in &route.patterns {
                let covering = |r: &&Arc<Compiled>| r.ends() && r.patterns.iter().any(|p| p.covers(pattern));
                if let Some(before) = self.routes[..i].iter().find(covering) {
                    let what = format!("`{pattern}` is never reached: route {} matches all its topics", before.number);
                    return Err(RouteError { number: route.number, key: "topic", what });
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
