//! The rule by which a client id belongs to a device.

/// True when a client id belongs to a device: it is the device id, or begins with the device id and
/// a colon.
pub fn belongs_to(client: &str, device: &str) -> bool {
    let rest = client.strip_prefix(device).filter(|_| !device.is_empty());
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
}

/// Returns the devices that a client id may belong to: the one with this id first, then those with
/// shorter ids. Of the devices with credentials, one at most is among them.
pub fn owners(client: &str) -> impl Iterator<Item = &str> {
    let shorter = client.match_indices(':').map(|(at, _)| &client[..at]);
    std::iter::once(client).chain(shorter).filter(|device| !device.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_id_belongs_to_each_of_its_owners_and_to_no_other_device() {
        for (client, devices) in [
            ("pump-7", &["pump-7"][..]),
            ("aa:bb:tool", &["aa:bb:tool", "aa", "aa:bb"]),
            ("a:", &["a:", "a"]),
            (":x", &[":x"]),
            ("", &[]),
        ] {
            assert_eq!(owners(client).collect::<Vec<_>>(), devices, "{client}");
            for device in ["", "a", "aa", "aa:", "aa:b", "aa:bb", "aa:bb:tool", "a:", ":x", "pump-7", "pump", "PUMP-7"]
            {
                assert_eq!(belongs_to(client, device), devices.contains(&device), "{client} {device}");
            }
        }
    }
}
