//! Topics that a client may publish and subscribe to, compiled from its identity.

use model::topic::{TopicError, check_filter, matches};

/// Maximum number of templates of either list: each is compared with every topic.
const TEMPLATES: usize = 64;
/// The level of a template that stands for the device id.
const DEVICE: &str = "{device}";

/// Topics that a client may use. The default is every topic.
///
/// A topic that begins with `$` is never granted for publishing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Grants {
    /// `None` is every topic.
    publish: Option<Box<[Filter]>>,
    subscribe: Option<Box<[Filter]>>,
}

/// A topic filter without a share.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Filter {
    text: Box<str>,
    /// Bytes before the first wildcard: whole levels, each with its `/`, or all of the filter.
    literal: usize,
}

impl Filter {
    fn new(text: String) -> Self {
        let literal = text.find(['+', '#']).unwrap_or(text.len());
        Self { text: text.into(), literal }
    }

    /// True when it matches a topic. Most filters of a device end in `#` or have no wildcard: their
    /// levels are compared at once.
    fn matches(&self, topic: &str) -> bool {
        let (literal, rest) = self.text.split_at(self.literal);
        match (topic.strip_prefix(literal), rest) {
            (Some(tail), "") => tail.is_empty(),
            (Some(_), "#") if !literal.is_empty() => true,
            (Some(_), _) => matches(&self.text, topic),
            // A `#` matches the level above it, too.
            (None, "#") => literal.strip_suffix('/') == Some(topic),
            (None, _) => false,
        }
    }
}

/// The reason why grants cannot be compiled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GrantError {
    /// The device id would change the meaning of a template.
    #[error("device id {0:.80?} cannot be part of a topic: use one without `+`, `#`, `/` and a leading `$`")]
    Device(Box<str>),
    /// A list has too many templates.
    #[error("{0} topic templates: use at most {TEMPLATES}")]
    TooMany(usize),
    /// A template is not a topic filter.
    #[error("topic template {0:.80?}: {1}")]
    Filter(Box<str>, TopicError),
    /// A template has braces other than `{device}` as a whole level.
    #[error("topic template {0:.80?}: `{DEVICE}` must fill a whole level, and is the only name in braces")]
    Braces(Box<str>),
    /// A template names a shared subscription.
    #[error("topic template {0:.80?}: write the filter without `$share/GROUP/`, which is always granted with it")]
    Share(Box<str>),
    /// A template grants publishing to topics of the server.
    #[error("topic template {0:.80?}: a client cannot publish to topics that begin with `$`")]
    Reserved(Box<str>),
}

impl Grants {
    /// Compiles templates: topic filters in which the level `{device}` stands for the device id.
    ///
    /// # Errors
    /// [`GrantError`].
    pub fn of(publish: &[String], subscribe: &[String], device: &str) -> Result<Self, GrantError> {
        let is_plain = check_filter(device).is_ok() && !device.contains(['+', '#', '/']) && !device.starts_with('$');
        if !is_plain {
            return Err(GrantError::Device(device.into()));
        }
        if let Some(reserved) = publish.iter().find(|template| template.starts_with('$')) {
            return Err(GrantError::Reserved(reserved.as_str().into()));
        }
        Ok(Self { publish: Some(compile(publish, device)?), subscribe: Some(compile(subscribe, device)?) })
    }

    /// True when a client may publish to a topic, which has been checked. Allocates nothing.
    pub fn may_publish(&self, topic: &str) -> bool {
        if topic.starts_with('$') {
            return false;
        }
        self.publish.as_ref().is_none_or(|granted| granted.iter().any(|filter| filter.matches(topic)))
    }

    /// True when one template matches every topic that a filter, which has been checked, matches.
    /// Of a shared subscription, the filter inside it counts. Allocates nothing.
    pub fn may_subscribe(&self, filter: &str) -> bool {
        let shared = filter.strip_prefix("$share/").and_then(|rest| rest.split_once('/'));
        let filter = shared.map_or(filter, |(_, filter)| filter);
        self.subscribe.as_ref().is_none_or(|granted| granted.iter().any(|granted| covers(&granted.text, filter)))
    }

    /// True when a client may be sent messages on a topic.
    pub fn may_receive(&self, topic: &str) -> bool {
        self.subscribe.as_ref().is_none_or(|granted| granted.iter().any(|filter| filter.matches(topic)))
    }
}

fn compile(templates: &[String], device: &str) -> Result<Box<[Filter]>, GrantError> {
    if templates.len() > TEMPLATES {
        return Err(GrantError::TooMany(templates.len()));
    }
    templates.iter().map(|template| compile_one(template, device)).collect()
}

fn compile_one(template: &str, device: &str) -> Result<Filter, GrantError> {
    if template.starts_with("$share/") {
        return Err(GrantError::Share(template.into()));
    }
    let mut filter = String::with_capacity(template.len() + device.len());
    for (at, level) in template.split('/').enumerate() {
        if at > 0 {
            filter.push('/');
        }
        match level {
            DEVICE => filter.push_str(device),
            level if level.contains(['{', '}']) => return Err(GrantError::Braces(template.into())),
            level => filter.push_str(level),
        }
    }
    check_filter(&filter).map_err(|error| GrantError::Filter(template.into(), error))?;
    Ok(Filter::new(filter))
}

/// True when `template` matches every topic that `filter` matches. Both are filters without a
/// share.
fn covers(template: &str, filter: &str) -> bool {
    if filter.starts_with('$') && template.starts_with(['+', '#']) {
        return false;
    }
    // A topic has a first level.
    let filter = if filter == "#" { "+/#" } else { filter };
    let mut granted = template.split('/');
    let mut asked = filter.split('/');
    loop {
        match (granted.next(), asked.next()) {
            // A `#` matches the level above it, too.
            (Some("#"), _) | (None, None) => return true,
            // A `#` asks for every number of levels.
            (_, Some("#")) => return false,
            (Some("+"), Some(_)) => {}
            (Some(granted), Some(asked)) if granted == asked => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grants(publish: &[&str], subscribe: &[&str]) -> Result<Grants, GrantError> {
        let owned = |list: &[&str]| list.iter().map(|template| (*template).to_owned()).collect::<Vec<_>>();
        Grants::of(&owned(publish), &owned(subscribe), "d1")
    }

    #[test]
    fn a_device_publishes_below_its_own_topics_only() {
        let grants = grants(&["devices/{device}/#", "tele/{device}/SENSOR", "stat/{device}/+"], &[]).unwrap();
        for topic in ["devices/d1/telemetry", "devices/d1", "tele/d1/SENSOR", "stat/d1/POWER"] {
            assert!(grants.may_publish(topic), "{topic}");
        }
        for topic in
            ["devices/d2/telemetry", "devices/d11", "devices", "tele/d1/STATE", "stat/d1/POWER/1", "$SYS/x", "d1"]
        {
            assert!(!grants.may_publish(topic), "{topic}");
        }
        assert!(!grants.may_subscribe("devices/d1/telemetry") && !grants.may_receive("devices/d1/telemetry"));
    }

    #[test]
    fn a_filter_is_granted_when_one_template_matches_all_its_topics() {
        let grants = grants(&[], &["devices/{device}/#", "cmnd/{device}/+"]).unwrap();
        for filter in [
            "devices/d1",
            "devices/d1/#",
            "devices/d1/+/x",
            "cmnd/d1/+",
            "cmnd/d1/POWER",
            "$share/g/devices/d1/#",
            "$share/devices/cmnd/d1/+",
        ] {
            assert!(grants.may_subscribe(filter), "{filter}");
        }
        for filter in [
            "#",
            "+/+/#",
            "devices/#",
            "devices/+/telemetry",
            "devices/d2/#",
            "cmnd/d1/#",
            "cmnd/d1",
            "$SYS/#",
            "$share/g/#",
            "$share/g/devices/+",
            "$share/g/$SYS/#",
        ] {
            assert!(!grants.may_subscribe(filter), "{filter}");
        }
    }

    #[test]
    fn topics_of_the_server_are_for_subscribers_that_a_template_names() {
        let all = grants(&["#"], &["#"]).unwrap();
        assert!(all.may_publish("a") && all.may_subscribe("#") && all.may_subscribe("+/#"));
        assert!(!all.may_publish("$SYS/x") && !all.may_subscribe("$SYS/#") && !all.may_receive("$SYS/x"));
        assert!(grants(&[], &["$SYS/#"]).unwrap().may_subscribe("$SYS/broker/+"));
        let open = Grants::default();
        assert!(open.may_publish("a") && open.may_subscribe("#") && open.may_subscribe("$SYS/#"));
        assert!(!open.may_publish("$SYS/x") && !open.may_publish("$weir/wills/x"));
    }

    #[test]
    fn templates_and_devices_that_would_grant_more_than_they_seem_to_are_refused() {
        let all = ["devices/{device}/#".to_owned()];
        for device in ["", "+", "#", "a/b", "a+", "a#b", "$SYS", "a\0", &"x".repeat(70_000)] {
            assert_eq!(Grants::of(&all, &all, device), Err(GrantError::Device(device.into())));
        }
        assert!(Grants::of(&all, &all, "a$b:{x} é").is_ok());
        let many = vec!["a"; TEMPLATES + 1];
        let long = format!("{}/{{device}}", "x".repeat(65_534));
        for (templates, wanted) in [
            (&["a/#/b"][..], "topic template \"a/#/b\": `+` and `#` must fill a whole level, and `#` the last one"),
            (&[""], "topic template \"\": topic is empty"),
            (&["a/x{device}"], "`{device}` must fill a whole level"),
            (&["a/{client}"], "`{device}` must fill a whole level"),
            (&["a/{}"], "`{device}` must fill a whole level"),
            (&["$share/g/a"], "without `$share/GROUP/`"),
            (&["$share/g"], "without `$share/GROUP/`"),
            (&many[..], "65 topic templates: use at most 64"),
            (&[long.as_str()], "topic is longer than 65,535 bytes"),
        ] {
            let error = grants(&[], templates).unwrap_err().to_string();
            assert!(error.contains(wanted), "{error}");
        }
        assert_eq!(grants(&["$SYS/x"], &[]), Err(GrantError::Reserved("$SYS/x".into())));
        assert!(grants(&vec!["a"; TEMPLATES], &vec!["a"; TEMPLATES]).is_ok());
    }

    /// Every list of one to `most` of these levels, joined.
    fn joined(levels: &[&str], most: usize) -> Vec<String> {
        let mut all: Vec<String> = levels.iter().map(|level| (*level).to_owned()).collect();
        let mut from = 0;
        for _ in 1..most {
            let to = all.len();
            for at in from..to {
                let longer: Vec<_> = levels.iter().map(|level| format!("{}/{level}", all[at])).collect();
                all.extend(longer);
            }
            from = to;
        }
        all
    }

    /// MQTT 5.0, section 4.7, by recursion.
    fn is_match(filter: &[&str], topic: &[&str], first: bool) -> bool {
        match (filter, topic) {
            ([], []) | (["#"], []) => true,
            (["#" | "+", ..], [level, ..]) if first && level.starts_with('$') => false,
            (["#"], _) => true,
            (["+", filter @ ..], [_, topic @ ..]) => is_match(filter, topic, false),
            ([wanted, filter @ ..], [level, topic @ ..]) if wanted == level => is_match(filter, topic, false),
            _ => false,
        }
    }

    #[test]
    fn grants_agree_with_every_topic_that_they_are_about() {
        let mut filters = joined(&["a", "+", "#", "$a", ""], 3);
        filters.retain(|filter| check_filter(filter).is_ok());
        // Topics have a level that no filter names, and are longer than every filter. The empty
        // one, which no message has, is among them: `/#` asks for it.
        let topics = joined(&["a", "z", "$a", ""], 4);
        let levels: Vec<Vec<&str>> = topics.iter().map(|topic| topic.split('/').collect()).collect();
        let matched: Vec<Vec<bool>> = filters
            .iter()
            .map(|filter| {
                let filter: Vec<&str> = filter.split('/').collect();
                levels.iter().map(|topic| is_match(&filter, topic, true)).collect()
            })
            .collect();
        assert!(filters.len() > 80 && topics.len() > 300, "{} {}", filters.len(), topics.len());
        for (template, granted) in filters.iter().zip(&matched) {
            let publish = if template.starts_with('$') { Vec::new() } else { vec![template.clone()] };
            let grants = Grants::of(&publish, std::slice::from_ref(template), "d").unwrap();
            for (topic, granted) in topics.iter().zip(granted) {
                assert_eq!(grants.may_receive(topic), *granted, "{template} {topic}");
                assert_eq!(grants.may_publish(topic), *granted && !topic.starts_with('$'), "{template} {topic}");
            }
            for (filter, asked) in filters.iter().zip(&matched) {
                let all = granted.iter().zip(asked).all(|(granted, asked)| *granted || !asked);
                assert_eq!(grants.may_subscribe(filter), all, "{template} covers {filter}");
                assert_eq!(grants.may_subscribe(&format!("$share/g/{filter}")), all, "{template} covers {filter}");
            }
        }
    }
}
