//! The authorization rules, read from the options of the methods.

use std::collections::BTreeMap;
use std::ops::Bound::{Included, Unbounded};
use std::sync::Arc;

use identity::Role;
use prost_reflect::{DescriptorPool, MessageDescriptor, MethodDescriptor, Value};

const OPTION: &str = "weir.v1.auth";
const PACKAGE: &str = "weir.v1";

/// Where a call finds the resource that is authorized; `weir.v1.AuthScope`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// No resource: the method is public.
    Public,
    /// A tenant.
    Tenant,
    /// A device.
    Device,
    /// The installation.
    Installation,
    /// The caller itself: any valid credential may call the method.
    Caller,
}

/// The devices that a method concerns, for callers that are bound to groups;
/// `weir.v1.DeviceScope`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceScope {
    /// Not decided: refused as [`DeviceScope::TenantWide`] is. A test fails.
    Undecided,
    /// No devices, or the one that the method names.
    Named,
    /// The tenant as a whole.
    TenantWide,
    /// Devices of the caller's groups only.
    Filtered,
}

/// The authorization rule of a method.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Index of the method among all methods, for metrics.
    pub index: usize,
    /// The permission that the caller needs.
    pub permission: Arc<str>,
    /// The kind of resource that is authorized.
    pub scope: Scope,
    /// The request field that names the resource.
    pub field: Arc<str>,
    /// The devices that it concerns.
    pub devices: DeviceScope,
    /// True when the server answers with a stream.
    pub streaming: bool,
}

impl Rule {
    /// True for a method that changes things of a tenant, with an event in its audit each time.
    pub(crate) fn is_change(&self) -> bool {
        let verb = self.permission.rsplit('.').next().unwrap_or_default();
        matches!(self.scope, Scope::Tenant | Scope::Device)
            && matches!(verb, "create" | "update" | "delete" | "revoke" | "disconnect" | "clear")
    }
}

/// A method without a usable rule. The server does not start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("method {method} cannot be served: {problem}")]
pub struct RuleError {
    /// Full name of the method.
    pub method: String,
    /// Problem of its rule.
    pub problem: String,
}

/// The rule of each method, by its path `/weir.v1.Service/Method`.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    by_path: BTreeMap<Box<str>, Rule>,
}

impl Rules {
    /// Reads the rules of every service of package `weir.v1`.
    ///
    /// # Errors
    /// [`RuleError`] for a method without a rule, or with one that cannot be followed.
    pub fn read(descriptors: &[u8]) -> Result<Self, RuleError> {
        let broken = |problem: String| RuleError { method: format!("{PACKAGE}.*"), problem };
        let pool = DescriptorPool::decode(descriptors).map_err(|error| broken(error.to_string()))?;
        let mut by_path = BTreeMap::new();
        for service in pool.services().filter(|s| s.parent_file().package_name() == PACKAGE) {
            for method in service.methods() {
                let path = format!("/{}/{}", service.full_name(), method.name());
                by_path.insert(path.into_boxed_str(), read_rule(&pool, &method)?);
            }
        }
        for (index, rule) in by_path.values_mut().enumerate() {
            rule.index = index;
        }
        Ok(Self { by_path })
    }

    /// The rule of the method at a path.
    pub fn get(&self, path: &str) -> Option<&Rule> {
        self.by_path.get(path)
    }

    /// True when the path is below a known service.
    pub fn has_service(&self, path: &str) -> bool {
        let service = path.rfind('/').map(|end| &path[..=end]).filter(|service| service.len() > 1);
        service.is_some_and(|service| {
            let next = self.by_path.range::<str, _>((Included(service), Unbounded)).next();
            next.is_some_and(|(path, _)| path.starts_with(service))
        })
    }

    /// All paths with their rules, ordered by path.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Rule)> {
        self.by_path.iter().map(|(path, rule)| (&**path, rule))
    }
}

fn read_rule(pool: &DescriptorPool, method: &MethodDescriptor) -> Result<Rule, RuleError> {
    let broken = |problem: &str| RuleError { method: method.full_name().to_owned(), problem: problem.to_owned() };
    let option = pool.get_extension_by_name(OPTION).ok_or_else(|| broken("there is no option weir.v1.auth"))?;
    let options = method.options();
    if !options.has_extension(&option) {
        return Err(broken("it has no authorization rule"));
    }
    let rule = options.get_extension(&option);
    let rule = rule.as_message().ok_or_else(|| broken("its rule is not a message"))?;
    let text = |field: &str| -> Arc<str> {
        rule.get_field_by_name(field).as_deref().and_then(Value::as_str).unwrap_or_default().into()
    };
    let (permission, field) = (text("permission"), text("field"));
    let scope = match rule.get_field_by_name("scope").as_deref().and_then(Value::as_enum_number) {
        Some(1) => Scope::Public,
        Some(2) => Scope::Tenant,
        Some(3) => Scope::Device,
        Some(4) => Scope::Installation,
        Some(5) => Scope::Caller,
        _ => return Err(broken("its rule has no scope")),
    };
    if permission.is_empty() && scope != Scope::Public {
        return Err(broken("its rule names no permission"));
    }
    if !permission.is_empty() && !Role::is_permission(&permission) {
        return Err(broken("no role has the permission that its rule names"));
    }
    let named = matches!(scope, Scope::Tenant | Scope::Device);
    if named && !has_field(&method.input(), &field) {
        return Err(broken("its rule names a field that the request lacks"));
    }
    let devices = match (scope, rule.get_field_by_name("devices").as_deref().and_then(Value::as_enum_number)) {
        (Scope::Tenant, Some(1)) | (Scope::Installation, None | Some(0)) => DeviceScope::TenantWide,
        (Scope::Tenant, Some(2)) => DeviceScope::Filtered,
        (Scope::Tenant, None | Some(0)) => DeviceScope::Undecided,
        (_, None | Some(0)) => DeviceScope::Named,
        _ => return Err(broken("its rule sets `devices`, which is for methods of a tenant")),
    };
    Ok(Rule { index: 0, permission, scope, field, devices, streaming: method.is_server_streaming() })
}

/// True when a message has a field, or one of a field.
fn has_field(message: &MessageDescriptor, path: &str) -> bool {
    let (first, rest) = path.split_once('.').map_or((path, None), |(first, rest)| (first, Some(rest)));
    let Some(field) = message.get_field_by_name(first) else { return false };
    rest.is_none_or(|rest| field.kind().as_message().is_some_and(|message| has_field(message, rest)))
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use prost_types::FileDescriptorSet;

    use super::*;

    /// A new method or a changed permission must show in a review, so the table is a file.
    #[test]
    fn the_permissions_are_those_of_the_golden_table() {
        let rules = Rules::read(proto::FILE_DESCRIPTOR_SET).expect("every method has a rule");
        let line = |(path, rule): (&str, &Rule)| {
            let devices = match rule.scope {
                Scope::Tenant => format!("{:?}", rule.devices),
                _ => String::new(),
            };
            let line = format!("{path} {} {:?} {} {devices}", rule.permission, rule.scope, rule.field);
            line.trim_end().to_owned()
        };
        let table: Vec<String> = rules.iter().map(line).collect();
        let golden: Vec<&str> = include_str!("../../tests/permissions.txt").lines().collect();
        assert_eq!(table, golden, "update api/tests/permissions.txt if this is meant");
    }

    #[test]
    fn a_method_without_a_rule_keeps_the_server_from_starting() {
        let mut files = FileDescriptorSet::decode(proto::FILE_DESCRIPTOR_SET).expect("descriptors");
        // Decoding into types that do not know the option drops it.
        let service = files.file.iter_mut().find_map(|f| f.service.first_mut()).expect("a service");
        let name = service.method[0].name().to_owned();
        let error = Rules::read(&files.encode_to_vec()).expect_err("no rules");
        assert!(error.problem.contains("no authorization rule"), "{error}");
        assert!(error.method.contains("weir.v1."), "{error} {name}");
    }
}
