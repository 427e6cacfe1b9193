//! A process of the fleet, as the others know it.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use buffer::Holder;

use crate::unique::unique;

/// A process of the fleet. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// `NODE@ADDRESS`, or `NODE` without an address.
    name: Arc<str>,
    node: Arc<str>,
    address: Option<Arc<str>>,
    roles: Arc<[String]>,
    pools: Arc<[String]>,
    /// Its start: processes without an address of their own may have the same name.
    start: Arc<str>,
}

impl Member {
    /// This start of this process. `node` is its name among those that accept devices, `address`
    /// is where the others call it, `http://host:port`, or empty when they do not.
    pub fn new<'a>(
        node: &str,
        address: &str,
        roles: impl IntoIterator<Item = &'a str>,
        pools: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        let pools: BTreeSet<&str> = pools.into_iter().collect();
        Self {
            name: if address.is_empty() { node.into() } else { format!("{node}@{address}").into() },
            node: node.into(),
            address: (!address.is_empty()).then(|| address.into()),
            roles: roles.into_iter().map(str::to_owned).collect(),
            pools: pools.into_iter().map(str::to_owned).collect(),
            start: format!("{:016x}", unique()).into(),
        }
    }

    /// Its name as a holder of leases, in reports and in calls.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its name among the processes that accept devices.
    pub fn node(&self) -> &Arc<str> {
        &self.node
    }

    /// Its address for calls.
    pub fn address(&self) -> Option<&str> {
        self.address.as_deref()
    }

    /// The pools besides the shared one that it has, by name.
    pub fn pools(&self) -> &[String] {
        &self.pools
    }

    /// True when it runs with this role.
    pub fn has_role(&self, role: &str) -> bool {
        self.roles.iter().any(|held| held == role)
    }

    /// The process as a holder of leases.
    pub fn holder(&self) -> Holder {
        Holder { name: self.name.to_string(), address: self.address().unwrap_or_default().to_owned() }
    }

    /// Its name in the register, which no other start of any process has.
    pub(super) fn entry(&self) -> String {
        format!("{self}#{}", self.start)
    }

    /// Its value in the register.
    pub(super) fn value(&self) -> String {
        self.pools.join(",")
    }

    /// Reads an entry of the register: `NODE@ADDRESS (ROLES)#START`, or without an address; and its
    /// value.
    pub(super) fn parse(entry: &str, value: &str) -> Option<Self> {
        let (described, start) = entry.rsplit_once('#')?;
        let (name, roles) = described.strip_suffix(')')?.rsplit_once(" (")?;
        // A node may have an `@` in its name; an address has none.
        let at = name.rsplit_once('@').filter(|(_, address)| address.contains("://"));
        let (node, address) = at.map_or((name, None), |(node, address)| (node, Some(address)));
        Some(Self {
            name: name.into(),
            node: node.into(),
            address: address.map(Into::into),
            roles: roles.split(", ").map(str::to_owned).collect(),
            pools: value.split(',').filter(|pool| !pool.is_empty()).map(str::to_owned).collect(),
            start: start.into(),
        })
    }
}

impl fmt::Display for Member {
    /// The name and the roles.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.roles.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_are_read_as_they_announce_themselves() {
        let parse = |entry| {
            let member = Member::parse(entry, "")?;
            let accepts_devices = member.has_role("ingest");
            Some((member.node.to_string(), member.address.map(|address| address.to_string()), accepts_devices))
        };
        let with =
            |node: &str, address: Option<&str>, accepts| Some((node.to_owned(), address.map(str::to_owned), accepts));
        let all = "edge@http://10.0.0.7:50052 (ingest, flusher, api)#18a";
        assert_eq!(parse(all), with("edge", Some("http://10.0.0.7:50052"), true));
        assert_eq!(Member::parse(all, "").unwrap().name(), "edge@http://10.0.0.7:50052");
        assert_eq!(parse("api-1 (api)#1"), with("api-1", None, false));
        assert_eq!(parse("a@b (ingest)#1"), with("a@b", None, true));
        assert_eq!(parse("a (x)#y@https://h:1 (ingest)#1"), with("a (x)#y", Some("https://h:1"), true));
        assert_eq!((parse("garbage"), parse("")), (None, None));
    }

    #[test]
    fn an_entry_says_all_of_a_process_and_each_start_has_its_own() {
        for (address, pools) in [("http://h:1", vec!["b", "a", "b"]), ("", vec![])] {
            let member = Member::new("n", address, ["ingest", "api"], pools);
            assert_eq!(Member::parse(&member.entry(), &member.value()), Some(member));
        }
        let (one, two) = (Member::new("n", "", ["api"], []), Member::new("n", "", ["api"], []));
        assert_eq!(one.name(), two.name());
        assert_ne!(one.entry(), two.entry());
        let holder = Member::new("n", "http://h:1", ["flusher"], ["b", "a"]).holder();
        assert_eq!((&*holder.name, &*holder.address), ("n@http://h:1", "http://h:1"));
    }
}
