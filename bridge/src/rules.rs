//! Topics of a bridge: what is subscribed to, and the topic of a message on the other side.

use std::collections::BTreeSet;

use model::topic::{check_filter, check_name, matches};

use crate::config::{Direction, Topic};

/// Topics of a bridge in both directions.
#[derive(Debug)]
pub(crate) struct Rules {
    /// From this broker to the other one.
    pub(crate) out: Way,
    /// From the other broker to this one.
    pub(crate) back: Way,
}

/// Topics of one direction.
#[derive(Debug)]
pub(crate) struct Way(Vec<Rule>);

#[derive(Debug)]
struct Rule {
    /// Filter at the source.
    filter: String,
    qos: u8,
    /// Beginning of the topics at the source.
    from: String,
    /// Beginning of the topics at the destination.
    to: String,
}

/// The reason why a message has no topic on the other side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoTopic {
    /// No topic of the bridge matches: it was subscribed to by an earlier configuration.
    Unmapped,
    /// The topic would not be a topic name.
    Invalid,
}

impl Rules {
    pub(crate) fn new(topics: &[Topic]) -> Self {
        let out = topics.iter().filter(|topic| topic.direction != Direction::In);
        let back = topics.iter().filter(|topic| topic.direction != Direction::Out);
        Self {
            out: Way(out.map(|topic| Rule::new(topic, &topic.local_prefix, &topic.remote_prefix)).collect()),
            back: Way(back.map(|topic| Rule::new(topic, &topic.remote_prefix, &topic.local_prefix)).collect()),
        }
    }

    /// Checks the topics of a bridge.
    ///
    /// # Errors
    /// Names the topic, the key and what to do.
    pub(crate) fn check(topics: &[Topic]) -> Result<(), String> {
        for topic in topics {
            check_one(topic).map_err(|error| format!("[[bridge.topic]] {:?}: {error}", topic.filter))?;
        }
        let rules = Self::new(topics);
        for (way, side) in [(&rules.out, "this broker"), (&rules.back, "the other broker")] {
            let mut seen = BTreeSet::new();
            if let Some(rule) = way.0.iter().find(|rule| !seen.insert(&rule.filter)) {
                return Err(format!(
                    "{:?} is subscribed to twice at {side}: leave one [[bridge.topic]] out",
                    rule.filter
                ));
            }
        }
        Ok(())
    }
}

fn check_one(topic: &Topic) -> Result<(), String> {
    if topic.filter.is_empty() {
        return Err("topic is empty: give a `filter`, as devices/#".into());
    }
    if topic.qos > 2 {
        return Err(format!("`qos` is {}: give 0, 1 or 2", topic.qos));
    }
    for (key, prefix) in [("local_prefix", &topic.local_prefix), ("remote_prefix", &topic.remote_prefix)] {
        if prefix.is_empty() {
            continue;
        }
        check_name(prefix)
            .map_err(|error| format!("`{key}` is {prefix:?}: {error}: give the first levels of a topic"))?;
        if !prefix.ends_with('/') {
            return Err(format!("`{key}` is {prefix:?}: end it with /"));
        }
    }
    for prefix in [&topic.local_prefix, &topic.remote_prefix] {
        let filter = format!("{prefix}{}", topic.filter);
        if filter.starts_with("$share/") {
            return Err("a shared subscription cannot be bridged: give the filter inside it".into());
        }
        check_filter(&filter).map_err(|error| error.to_string())?;
    }
    Ok(())
}

impl Rule {
    fn new(topic: &Topic, from: &str, to: &str) -> Self {
        Self { filter: format!("{from}{}", topic.filter), qos: topic.qos, from: from.to_owned(), to: to.to_owned() }
    }
}

impl Way {
    /// Filters to subscribe to at the source, each with its QoS.
    pub(crate) fn subscriptions(&self) -> impl Iterator<Item = (&str, u8)> {
        self.0.iter().map(|rule| (rule.filter.as_str(), rule.qos))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// True when messages at QoS 2 may come this way.
    pub(crate) fn has_qos2(&self) -> bool {
        self.0.iter().any(|rule| rule.qos == 2)
    }

    /// Writes the topic at the destination into `out`. The first rule that matches decides.
    pub(crate) fn translate(&self, topic: &str, out: &mut String) -> Result<(), NoTopic> {
        let found = self.0.iter().find_map(|rule| {
            let rest = topic.strip_prefix(rule.from.as_str())?;
            matches(&rule.filter, topic).then_some((rule, rest))
        });
        let (rule, rest) = found.ok_or(NoTopic::Unmapped)?;
        out.clear();
        out.push_str(&rule.to);
        out.push_str(rest);
        check_name(out).map_err(|_| NoTopic::Invalid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(filter: &str, direction: Direction, local: &str, remote: &str) -> Topic {
        Topic { filter: filter.into(), direction, qos: 1, local_prefix: local.into(), remote_prefix: remote.into() }
    }

    #[test]
    fn topics_change_their_beginning_and_the_first_rule_that_matches_decides() {
        let rules = Rules::new(&[
            topic("alarms/#", Direction::Out, "", "urgent/"),
            topic("#", Direction::Both, "", "plant-7/"),
            topic("commands/+", Direction::In, "from-centre/", ""),
        ]);
        let translated = |way: &Way, topic: &str| {
            let mut out = String::new();
            way.translate(topic, &mut out).map(|()| out)
        };
        assert_eq!(translated(&rules.out, "alarms/1").as_deref(), Ok("urgent/alarms/1"));
        assert_eq!(translated(&rules.out, "devices/a/telemetry").as_deref(), Ok("plant-7/devices/a/telemetry"));
        assert_eq!(translated(&rules.back, "plant-7/x").as_deref(), Ok("x"));
        assert_eq!(translated(&rules.back, "commands/x").as_deref(), Ok("from-centre/commands/x"));
        assert_eq!(translated(&rules.back, "plant-7"), Err(NoTopic::Unmapped), "`#` matches it, and nothing is left");
        assert_eq!(translated(&rules.back, "commands/x/y"), Err(NoTopic::Unmapped));
        assert_eq!(translated(&rules.back, "plant-7/"), Err(NoTopic::Invalid));
        assert_eq!(translated(&rules.out, &"x".repeat(65_530)), Err(NoTopic::Invalid));
        let filters: Vec<_> = rules.back.subscriptions().collect();
        assert_eq!(filters, [("plant-7/#", 1), ("commands/+", 1)]);
    }
}
