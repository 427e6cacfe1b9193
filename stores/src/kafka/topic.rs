//! Names of topics.

/// Kafka's own limit.
const LONGEST: usize = 249;
const TENANT: &str = "{tenant}";

/// A topic for each tenant, or one for all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Template {
    before: String,
    /// Text after the tenant; `None` without a tenant.
    after: Option<String>,
}

impl Template {
    pub(super) fn new(text: &str) -> Result<Self, String> {
        let (before, after) = match text.split_once(TENANT) {
            Some((before, after)) => (before, Some(after)),
            None => (text, None),
        };
        check(&format!("{before}{}", after.unwrap_or_default()), after.is_some())?;
        Ok(Self { before: before.to_owned(), after: after.map(str::to_owned) })
    }

    /// True when each tenant has a topic of its own.
    pub(super) fn by_tenant(&self) -> bool {
        self.after.is_some()
    }

    /// The topic of a tenant; two tenants never have the same.
    pub(super) fn topic(&self, tenant: &str) -> Result<String, String> {
        let Some(after) = &self.after else { return Ok(self.before.clone()) };
        let mut topic = self.before.clone();
        escape(&mut topic, tenant);
        topic.push_str(after);
        if topic.len() > LONGEST {
            return Err(format!("the topic {topic:?} would have more than {LONGEST} characters"));
        }
        Ok(topic)
    }
}

/// The topic of the cursors of an export.
pub(super) fn cursor_topic(template: &str, export: &str) -> Result<String, String> {
    let (before, after) = template.split_once("{export}").unwrap_or((template, ""));
    let mut topic = before.to_owned();
    if template.contains("{export}") {
        escape(&mut topic, export);
    }
    topic.push_str(after);
    check(&topic, false)?;
    Ok(topic)
}

/// Appends a name: a byte that no topic may hold becomes `_` and two upper-case hexadecimal digits,
/// and so does a `_` that would be read as the begin of such a byte.
fn escape(out: &mut String, name: &str) {
    let bytes = name.as_bytes();
    let digit = |at: usize| bytes.get(at).is_some_and(|b| matches!(b, b'0'..=b'9' | b'A'..=b'F'));
    for (at, byte) in bytes.iter().enumerate() {
        let plain = match byte {
            b'_' => !(digit(at + 1) && digit(at + 2)),
            byte => is_plain(*byte),
        };
        if plain {
            out.push(char::from(*byte));
        } else {
            out.push_str(&format!("_{byte:02X}"));
        }
    }
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')
}

fn check(topic: &str, more: bool) -> Result<(), String> {
    if topic.contains(['{', '}']) {
        return Err("the only placeholder is {tenant} in `topic` and {export} in `cursor_topic`, once".to_owned());
    }
    if !topic.bytes().all(is_plain)
        || topic.len() > LONGEST
        || (topic.is_empty() && !more)
        || matches!(topic, "." | "..")
    {
        return Err(format!("use letters, digits, `.`, `_` and `-`, at most {LONGEST} of them"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn two_tenants_never_share_a_topic() {
        let template = Template::new("weir.{tenant}.telemetry").unwrap();
        let tenants = ["a", "a/", "a_2F", "a_5F2F", "a_", "a__2F", "ä", "a b", "_", "_5F"];
        let topics: HashSet<_> = tenants.iter().map(|tenant| template.topic(tenant).unwrap()).collect();
        assert_eq!(topics.len(), tenants.len(), "{topics:?}");
        assert!(topics.iter().all(|topic| topic.bytes().all(is_plain)), "{topics:?}");
        assert_eq!(template.topic("my_tenant-1").unwrap(), "weir.my_tenant-1.telemetry");
        assert_eq!(template.topic("a/b").unwrap(), "weir.a_2Fb.telemetry");
        assert!(template.topic(&"x".repeat(240)).is_err());
    }

    #[test]
    fn a_template_that_makes_no_topic_is_refused() {
        for bad in ["", "a b", "{device}", "{tenant}.{tenant}", ".", "weir/{tenant}"] {
            assert!(Template::new(bad).is_err(), "{bad}");
        }
        assert!(!Template::new("telemetry").unwrap().by_tenant());
        assert!(Template::new("{tenant}").unwrap().by_tenant());
        assert_eq!(cursor_topic("weir-cursors-{export}", "bus 1").unwrap(), "weir-cursors-bus_201");
        assert!(cursor_topic("{tenant}", "bus").is_err());
    }
}
