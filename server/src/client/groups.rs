//! `weir groups`.

use anyhow::Context;
use prost_types::FieldMask;
use proto::v1::group::Filter;
use proto::v1::group_service_client::GroupServiceClient;
use proto::v1::{
    AddGroupMembersRequest, CreateGroupRequest, DeleteGroupRequest, DevicePatterns, GetGroupRequest, Group,
    ListGroupMembersRequest, ListGroupsRequest, RemoveGroupMembersRequest, UpdateGroupRequest,
};

use super::access::PAGE;
use super::cli::Server;
use super::groups_cli::{GroupAdd, GroupId, GroupMembers, GroupSet, Groups, GroupsCommand, GroupsList};
use super::output::{self, Cell, Format, Table};
use super::{Connection, client, connect, names, refused, time};

/// Devices that one call adds or removes.
const CHANGED: usize = 1000;

pub(crate) async fn groups(options: &Groups) -> anyhow::Result<()> {
    match &options.command {
        GroupsCommand::List(options) => list(options).await,
        GroupsCommand::Add(options) => add(options).await,
        GroupsCommand::Show(options) => show(options).await,
        GroupsCommand::Set(options) => set(options).await,
        GroupsCommand::Members(options) => members(options).await,
        GroupsCommand::Delete(options) => delete(options).await,
    }
}

/// Returns the resource names of groups of a tenant.
pub(super) fn names_of(tenant: &str, ids: &[String]) -> Vec<String> {
    ids.iter().map(|id| names::child(tenant, "groups", id)).collect()
}

/// Returns the ids in resource names of groups, for a list.
pub(super) fn ids_of(names: &[String]) -> String {
    names.iter().map(|name| names::last(name)).collect::<Vec<_>>().join(" ")
}

fn name(group: &GroupId) -> String {
    names::child(&group.common.tenant, "groups", &group.id)
}

async fn open(server: &Server) -> anyhow::Result<GroupServiceClient<Connection>> {
    Ok(client!(GroupServiceClient<_>, connect(server).await?))
}

fn table() -> Table {
    Table::new(["group", "name", "members", "patterns", "created"])
}

fn table_row(group: &Group) -> [Cell; 5] {
    let patterns = match &group.filter {
        Some(Filter::Patterns(of)) => of.patterns.join(" "),
        None => String::new(),
    };
    [
        names::last(&group.name).to_owned().into(),
        group.display_name.clone().into(),
        i64::from(group.member_count).into(),
        patterns.into(),
        time::show_proto(group.create_time.as_ref()).into(),
    ]
}

fn print(group: &Group, format: Format) -> anyhow::Result<()> {
    let mut table = table();
    table.row(table_row(group));
    table.print(format)
}

async fn list(options: &GroupsList) -> anyhow::Result<()> {
    let mut client = open(&options.common.server).await?;
    let (mut table, mut page_token) = (table(), String::new());
    loop {
        let request = ListGroupsRequest { parent: names::tenant(&options.common.tenant), page_size: PAGE, page_token };
        let page = client.list_groups(request).await.map_err(|s| refused(&s))?.into_inner();
        page.groups.iter().for_each(|group| table.row(table_row(group)));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return table.print(options.common.format);
        }
    }
}

fn filter(patterns: &[String]) -> Option<Filter> {
    let patterns = patterns.to_vec();
    (!patterns.is_empty()).then_some(Filter::Patterns(DevicePatterns { patterns }))
}

async fn add(options: &GroupAdd) -> anyhow::Result<()> {
    let common = &options.group.common;
    let group = Group { display_name: options.name.clone(), filter: filter(&options.patterns), ..Group::default() };
    let request = CreateGroupRequest {
        parent: names::tenant(&common.tenant),
        group_id: options.group.id.clone(),
        group: Some(group),
        ..CreateGroupRequest::default()
    };
    let mut client = open(&common.server).await?;
    let mut made = client.create_group(request).await.map_err(|s| refused(&s))?.into_inner();
    if let Some(group) = change(&mut client, &options.group, &options.members, &[]).await? {
        made = group;
    }
    print(&made, common.format)
}

async fn show(options: &GroupId) -> anyhow::Result<()> {
    let mut client = open(&options.common.server).await?;
    let group = client.get_group(GetGroupRequest { name: name(options) }).await.map_err(|s| refused(&s))?;
    print(&group.into_inner(), options.common.format)
}

async fn set(options: &GroupSet) -> anyhow::Result<()> {
    let mut paths = Vec::new();
    if options.name.is_some() {
        paths.push("display_name".to_owned());
    }
    if options.no_patterns || !options.patterns.is_empty() {
        paths.push("patterns".to_owned());
    }
    if paths.is_empty() {
        anyhow::bail!("nothing to change: give --name, --pattern or --no-patterns");
    }
    let group = Group {
        name: name(&options.group),
        display_name: options.name.clone().unwrap_or_default(),
        filter: filter(&options.patterns),
        ..Group::default()
    };
    let request = UpdateGroupRequest { group: Some(group), update_mask: Some(FieldMask { paths }) };
    let mut client = open(&options.group.common.server).await?;
    let changed = client.update_group(request).await.map_err(|s| refused(&s))?.into_inner();
    print(&changed, options.group.common.format)
}

/// Changes the members; returns the group if there was something to change.
async fn change(
    client: &mut GroupServiceClient<Connection>,
    group: &GroupId,
    added: &[String],
    removed: &[String],
) -> anyhow::Result<Option<Group>> {
    let names_of = |ids: &[String]| ids.iter().map(|id| names::device(&group.common.tenant, id)).collect();
    let mut changed = None;
    for ids in removed.chunks(CHANGED) {
        let request = RemoveGroupMembersRequest { name: name(group), devices: names_of(ids) };
        changed = Some(client.remove_group_members(request).await.map_err(|s| refused(&s))?.into_inner());
    }
    for ids in added.chunks(CHANGED) {
        let request = AddGroupMembersRequest { name: name(group), devices: names_of(ids) };
        changed = Some(client.add_group_members(request).await.map_err(|s| refused(&s))?.into_inner());
    }
    Ok(changed)
}

async fn members(options: &GroupMembers) -> anyhow::Result<()> {
    let common = &options.group.common;
    let mut added = options.add.clone();
    if let Some(path) = &options.add_file {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        added.extend(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned));
    }
    let mut client = open(&common.server).await?;
    if let Some(group) = change(&mut client, &options.group, &added, &options.remove).await? {
        return print(&group, common.format);
    }
    let (mut table, mut page_token) = (Table::new(["device"]), String::new());
    loop {
        let request = ListGroupMembersRequest { parent: name(&options.group), page_size: PAGE, page_token };
        let page = client.list_group_members(request).await.map_err(|s| refused(&s))?.into_inner();
        page.devices.iter().for_each(|device| table.row([names::device_id(device).into()]));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return table.print(common.format);
        }
    }
}

async fn delete(options: &GroupId) -> anyhow::Result<()> {
    let mut client = open(&options.common.server).await?;
    let request = DeleteGroupRequest { name: name(options), ..DeleteGroupRequest::default() };
    client.delete_group(request).await.map_err(|s| refused(&s))?;
    output::remark(&format!("{} is deleted.", options.id));
    Ok(())
}
