//! The readings that an export passes on.

use std::fmt;

use buffer::frame::ReadingRef;
use model::DeviceKey;
use model::glob::Glob;

/// Selects readings by tenant, device and value name. An empty list selects everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExportFilter {
    /// Tenants.
    pub tenants: Vec<String>,
    /// Patterns of device ids.
    pub devices: Vec<Glob>,
    /// Patterns of value names. A reading passes when one of its names fits; its other values are
    /// left out.
    pub names: Vec<Glob>,
}

impl ExportFilter {
    /// True when it selects every reading.
    pub(crate) fn is_open(&self) -> bool {
        self.tenants.is_empty() && self.devices.is_empty() && self.names.is_empty()
    }

    /// True when readings of the tenant may pass.
    pub(crate) fn has_tenant(&self, tenant: &str) -> bool {
        self.tenants.is_empty() || self.tenants.iter().any(|known| known == tenant)
    }

    /// True when readings of the device may pass.
    pub(crate) fn has_device(&self, device: &DeviceKey) -> bool {
        self.has_tenant(&device.tenant) && fits(&self.devices, &device.id)
    }

    /// True when values of the name pass.
    pub(crate) fn has_name(&self, name: &str) -> bool {
        fits(&self.names, name)
    }

    /// True when a value of the reading has a name that passes.
    pub(crate) fn has_value(&self, reading: &ReadingRef<'_>) -> bool {
        self.names.is_empty() || reading.values().any(|(name, _)| self.has_name(name))
    }
}

/// As an operator reads it: `tenants a, b; devices pump-*`. Empty when it selects every reading.
impl fmt::Display for ExportFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let globs = |globs: &[Glob]| globs.iter().map(Glob::to_string).collect();
        let lists =
            [("tenants", self.tenants.clone()), ("devices", globs(&self.devices)), ("names", globs(&self.names))];
        let mut separator = "";
        for (what, items) in lists.iter().filter(|(_, items)| !items.is_empty()) {
            write!(f, "{separator}{what} {}", items.join(", "))?;
            separator = "; ";
        }
        Ok(())
    }
}

fn fits(patterns: &[Glob], text: &str) -> bool {
    patterns.is_empty() || patterns.iter().any(|pattern| pattern.matches(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_reads_as_it_was_configured() {
        let texts = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let filter = ExportFilter::new(&texts(&["acme"]), &texts(&["press-*", "d1"]), &[]);
        assert_eq!(filter.to_string(), "tenants acme; devices press-*, d1");
        assert_eq!(ExportFilter::default().to_string(), "");
    }
}
