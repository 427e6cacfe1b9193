//! A query for latest states.

use std::collections::HashSet;

use model::DeviceKey;
use stores::contract::{LatestState, LatestView, Result};

use super::LatestMap;

/// A query for states.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Question<'a> {
    /// The states of these devices.
    Some(&'a [DeviceKey]),
    /// The first `limit` states of a tenant after device `after`, by device id.
    List { tenant: &'a str, after: Option<&'a str>, limit: usize },
}

impl Question<'_> {
    /// The states that a map has.
    pub(crate) fn answer(&self, map: &LatestMap) -> Vec<LatestState> {
        match self {
            Self::Some(devices) => devices.iter().filter_map(|device| map.get(device)).collect(),
            Self::List { tenant, after, limit } => map.list(tenant, *after, *limit),
        }
    }

    /// The states that a store has.
    ///
    /// # Errors
    /// The store's answer.
    pub(crate) async fn ask(&self, store: &(impl LatestView + ?Sized)) -> Result<Vec<LatestState>> {
        match self {
            Self::Some(devices) => Ok(store.get(devices).await?.into_iter().flatten().collect()),
            Self::List { tenant, after, limit } => store.list(tenant, *after, *limit).await,
        }
    }

    /// The devices that are asked for by name.
    pub(crate) fn devices(&self) -> HashSet<&DeviceKey> {
        match self {
            Self::Some(devices) => devices.iter().collect(),
            Self::List { .. } => HashSet::new(),
        }
    }

    /// True when the answer may have the device; `devices` are those of [`Question::devices`].
    pub(crate) fn wants(&self, devices: &HashSet<&DeviceKey>, device: &DeviceKey) -> bool {
        match self {
            Self::Some(_) => devices.contains(device),
            Self::List { tenant, after, .. } => {
                *device.tenant == **tenant && after.is_none_or(|after| *device.id > *after)
            }
        }
    }
}
