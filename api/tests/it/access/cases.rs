//! The resource that each method names.

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, ReflectMessage, Value};

use super::rules;

/// A tenant.
const TENANT: &str = "{tenant}";
const DEVICE: &str = "{tenant}/devices/{id}";
const LETTER: &str = "{tenant}/deadLetters/{id}:1:ingest";
const SESSION: &str = "{tenant}/sessions/{id}";
const RETAINED: &str = "{tenant}/retainedMessages/{id}";
const KEY: &str = "{tenant}/apiKeys/{id}";
const GROUP: &str = "{tenant}/groups/{id}";
const AUTHORITY: &str = "{tenant}/authorities/{id}";
const ISSUER: &str = "{tenant}/issuers/{id}";
const BINDING: &str = "{tenant}/roleBindings/{id}";
const CREDENTIAL: &str = "{tenant}/devices/d1/credentials/{id}";
/// The method names none.
const NONE: &str = "";

/// The name in the field of each method's rule. A method that is not here fails each test of the
/// matrix.
const CASES: &[(&str, &str)] = &[
    ("AccessService/CreateApiKey", TENANT),
    ("AccessService/CreateDeviceCredential", DEVICE),
    ("AccessService/DeleteApiKey", KEY),
    ("AccessService/DeleteDeviceCredential", CREDENTIAL),
    ("AccessService/GetCallerIdentity", NONE),
    ("AccessService/ListApiKeys", TENANT),
    ("AccessService/ListDeviceCredentials", DEVICE),
    ("AuditService/ListAuditEvents", TENANT),
    ("AuditService/VerifyAuditEvents", TENANT),
    ("AuthorityService/CreateAuthority", TENANT),
    ("AuthorityService/DeleteAuthority", AUTHORITY),
    ("AuthorityService/ListAuthorities", TENANT),
    ("AuthorityService/RevokeCertificate", TENANT),
    ("BrokerService/ClearRetainedMessages", TENANT),
    ("BrokerService/DisconnectSession", SESSION),
    ("BrokerService/GetRetainedMessage", RETAINED),
    ("BrokerService/GetSession", SESSION),
    ("BrokerService/ListRetainedMessages", TENANT),
    ("BrokerService/ListSessions", TENANT),
    ("BrokerService/ListSubscriptions", TENANT),
    ("DeadLetterService/GetDeadLetter", LETTER),
    ("DeadLetterService/ListDeadLetters", TENANT),
    ("DeadLetterService/ReplayDeadLetters", TENANT),
    ("DeviceService/CreateDevice", TENANT),
    ("DeviceService/DeleteDevice", DEVICE),
    ("DeviceService/GetDevice", DEVICE),
    ("DeviceService/ImportDevices", TENANT),
    ("DeviceService/ListDevices", TENANT),
    ("DeviceService/UndeleteDevice", DEVICE),
    ("DeviceService/AdoptDevice", DEVICE),
    ("DeviceService/UpdateDevice", DEVICE),
    ("ExportService/ListExports", NONE),
    ("ExportService/PauseExport", NONE),
    ("ExportService/ResumeExport", NONE),
    ("ExportService/RewindExport", NONE),
    ("GroupService/AddGroupMembers", GROUP),
    ("GroupService/CreateGroup", TENANT),
    ("GroupService/DeleteGroup", GROUP),
    ("GroupService/GetGroup", GROUP),
    ("GroupService/ListGroupMembers", GROUP),
    ("GroupService/ListGroups", TENANT),
    ("GroupService/RemoveGroupMembers", GROUP),
    ("GroupService/UpdateGroup", GROUP),
    ("IssuerService/CreateIssuer", TENANT),
    ("IssuerService/CreateRoleBinding", TENANT),
    ("IssuerService/DeleteIssuer", ISSUER),
    ("IssuerService/DeleteRoleBinding", BINDING),
    ("IssuerService/ListIssuers", TENANT),
    ("IssuerService/ListRoleBindings", TENANT),
    ("IssuerService/UpdateIssuer", ISSUER),
    ("IssuerService/UpdateRoleBinding", BINDING),
    ("OperationsService/GetBooks", TENANT),
    ("OperationsService/GetStatus", NONE),
    ("TelemetryService/BatchGetLatest", TENANT),
    ("TelemetryService/ListReadings", DEVICE),
    ("TelemetryService/QueryAggregates", TENANT),
    ("TelemetryService/QueryGaps", TENANT),
    ("TelemetryService/StreamReadings", TENANT),
    ("TelemetryService/Subscribe", TENANT),
    ("TenantService/CreateTenant", NONE),
    ("TenantService/DeleteTenant", NONE),
    ("TenantService/GetTenant", NONE),
    ("TenantService/GetTenantDeletion", NONE),
    ("TenantService/GetTenantUsage", TENANT),
    ("TenantService/ListTenants", NONE),
    ("TenantService/ResumeTenant", NONE),
    ("TenantService/SuspendTenant", NONE),
    ("TenantService/UndeleteTenant", NONE),
    ("TenantService/UpdateTenant", NONE),
];

/// A method and the name that its requests hold.
pub(super) struct Case {
    path: String,
    field: String,
    template: &'static str,
}

/// The case of the method at a path.
pub(super) fn case(path: &str) -> Case {
    let method = path.trim_start_matches("/weir.v1.");
    let found = CASES.iter().find(|(of, _)| *of == method);
    let (_, template) = found.unwrap_or_else(|| panic!("{method} has no case: add the name that it takes"));
    let (_, rule) = rules().into_iter().find(|(of, _)| of == path).expect("a method");
    assert_eq!(
        template.is_empty(),
        rule.field.is_empty(),
        "{method}: the case and the rule name a resource, or neither"
    );
    Case { path: path.to_owned(), field: rule.field.to_string(), template }
}

impl Case {
    /// The name of a resource of a tenant.
    pub(super) fn name(&self, tenant: &str, id: &str) -> String {
        self.template.replace("{tenant}", tenant).replace("{id}", id)
    }

    /// A request that names a resource and nothing else.
    pub(super) fn request(&self, tenant: &str, id: &str) -> Vec<u8> {
        let pool = DescriptorPool::decode(proto::FILE_DESCRIPTOR_SET).unwrap();
        let (service, method) = self.path[1..].split_once('/').unwrap();
        let service = pool.get_service_by_name(service).unwrap();
        let method = service.methods().find(|of| of.name() == method).unwrap();
        let mut request = DynamicMessage::new(method.input());
        if !self.field.is_empty() {
            set(&mut request, &self.field, Value::String(self.name(tenant, id)));
        }
        request.encode_to_vec()
    }
}

/// Sets a field, or one of a field.
fn set(message: &mut DynamicMessage, path: &str, value: Value) {
    let Some((first, rest)) = path.split_once('.') else { return message.set_field_by_name(path, value) };
    let field = message.descriptor().get_field_by_name(first).unwrap();
    let mut inner = DynamicMessage::new(field.kind().as_message().unwrap().clone());
    set(&mut inner, rest, value);
    message.set_field(&field, Value::Message(inner));
}
