//! Topics and filters of the clients.

/// Topics that every client publishes to.
pub(crate) const PLAIN: [&str; 4] = ["n/a", "n/b", "devices/d/telemetry", "s/a"];
/// A topic of retained messages for each client.
pub(crate) const RETAINED: [&str; 4] = ["r/0", "r/1", "r/2", "r/3"];
/// A topic of will messages for each client.
pub(crate) const WILLS: [&str; 4] = ["w/0", "w/1", "w/2", "w/3"];
pub(crate) const FILTERS: [&str; 9] = ["n/a", "n/b", "n/+", "n/#", "+/b", "devices/#", "r/+", "r/1", "w/#"];
/// Each of these has two members.
pub(crate) const SHARES: [&str; 2] = ["$share/g/s/a", "$share/h/s/a"];

/// Clients that are members of a shared subscription.
pub(crate) fn members(share: &str) -> &'static [usize] {
    if share == SHARES[0] { &[0, 1] } else { &[2, 3] }
}

/// The shared subscription of a client that has this topic.
pub(crate) fn share_for(client: usize, topic: &str) -> Option<&'static str> {
    SHARES.into_iter().find(|share| members(share).contains(&client) && share_of(share) == topic)
}

/// The topic of a shared subscription.
pub(crate) fn share_of(share: &str) -> &str {
    share.splitn(3, '/').nth(2).unwrap()
}

pub(crate) fn is_shared(filter: &str) -> bool {
    filter.starts_with("$share/")
}

/// True for the topic of shared subscriptions.
pub(crate) fn is_shared_topic(topic: &str) -> bool {
    topic.starts_with("s/")
}

/// True when a topic matches a filter that is not shared (MQTT 5.0, section 4.7).
pub(crate) fn matches(filter: &str, topic: &str) -> bool {
    let mut levels = topic.split('/');
    for wanted in filter.split('/') {
        match (wanted, levels.next()) {
            ("#", _) => return true,
            ("+", Some(_)) => {}
            (wanted, Some(level)) if wanted == level => {}
            _ => return false,
        }
    }
    levels.next().is_none()
}
