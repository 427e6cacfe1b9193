//! The ids of all devices of a scenario.

use crate::scenario::{Group, Scenario};

/// Device ids with the names of their groups, in order.
#[derive(Debug)]
pub struct Names<'a> {
    groups: std::slice::Iter<'a, Group>,
    current: Option<(&'a Group, u32)>,
}

impl<'a> Names<'a> {
    /// The names of a scenario.
    pub fn of(scenario: &'a Scenario) -> Self {
        Self { groups: scenario.groups.iter(), current: None }
    }
}

impl<'a> Iterator for Names<'a> {
    type Item = (String, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some((group, number)) = &mut self.current
                && *number < group.count
            {
                let id = name(group, *number);
                *number += 1;
                return Some((id, &group.name));
            }
            self.current = Some((self.groups.next()?, 0));
        }
    }
}

/// The id of a device of a group.
pub(super) fn name(group: &Group, number: u32) -> String {
    let mut id = group.id.replace("{group}", &group.name).replace("{n}", &number.to_string());
    while let Some((start, digits, length)) = padded(&id) {
        id.replace_range(start..start + length, &format!("{number:0digits$}"));
    }
    id
}

/// The position of `{n:5}`, its digits, its length.
fn padded(id: &str) -> Option<(usize, usize, usize)> {
    let start = id.find("{n:")?;
    let end = id[start..].find('}')?;
    let digits = id[start + 3..start + end].parse().ok()?;
    Some((start, digits, end + 1))
}
