//! Checks of bridges.

use futures::future::join_all;

use bridge::Fault;

use super::Finding;
use crate::config::Config;

/// Connects to the other broker of every bridge, before a start.
pub(super) async fn configured(config: &Config) -> Vec<Finding> {
    join_all(config.bridge.iter().map(|bridge| async {
        let what = what(bridge);
        match bridge.reach().await {
            Ok(()) => Finding::ok(what, format!("{} accepts connections", bridge.address)),
            Err(Fault::Settings(error)) => Finding::fail(what, error),
            Err(Fault::Away(error)) => {
                Finding::warn(what, format!("{error}; a start does not wait for it, and messages wait in the log"))
            }
        }
    }))
    .await
}

/// The bridges of the process that runs, with its reasons for what it waits for.
pub(super) fn running(bridges: &[bridge::Config], reasons: &[String]) -> Vec<Finding> {
    let finding = |bridge: &bridge::Config| {
        let what = what(bridge);
        let reason = reasons.iter().find_map(|reason| reason.strip_prefix(&what)?.strip_prefix(": "));
        match reason {
            None => Finding::ok(what, format!("connected to {}", bridge.address)),
            // Nothing waits for a bridge that has ended.
            Some(reason) if reason.contains(" is deleted: ") => Finding::warn(what, reason),
            Some(reason) => Finding::warn(what, format!("{reason} (messages wait in the log)")),
        }
    };
    bridges.iter().map(finding).collect()
}

fn what(bridge: &bridge::Config) -> String {
    format!("bridge {}", bridge.name)
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    fn bridge(name: &str, address: &str) -> bridge::Config {
        let topic = vec![bridge::Topic { filter: "a/#".into(), ..bridge::Topic::default() }];
        bridge::Config {
            name: name.into(),
            address: address.into(),
            client_id: "edge".into(),
            topic,
            ..bridge::Config::default()
        }
    }

    #[tokio::test]
    async fn each_bridge_is_named_with_what_keeps_it_from_its_broker() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let open = format!("mqtt://{}", listener.local_addr().unwrap());
        let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let mut unread = bridge("unread", &open);
        unread.password_file = "/nowhere/password".into();
        unread.username = "edge".into();
        let bridge = vec![bridge("open", &open), bridge("closed", &format!("mqtt://{closed}")), unread];
        let config = Config { bridge, ..Config::default() };
        let found = configured(&config).await;
        let levels: Vec<_> = found.iter().map(|finding| (finding.what.as_str(), finding.level)).collect();
        assert_eq!(
            levels,
            [("bridge open", Level::Ok), ("bridge closed", Level::Warn), ("bridge unread", Level::Fail)],
            "{found:?}"
        );
        assert!(found[2].text.contains("`password_file`"), "{found:?}");
        let reasons = ["bridge closed: cannot connect".to_owned(), "bridge open-2: x".to_owned()];
        let found = running(&config.bridge[..2], &reasons);
        assert_eq!(found.iter().map(|finding| finding.level).collect::<Vec<_>>(), [Level::Ok, Level::Warn]);
        assert!(found[1].text.starts_with("cannot connect"), "{found:?}");
    }
}
