//! Built-in scenarios.

/// Name and text of each scenario.
pub const SHIPPED: &[(&str, &str)] = &[
    ("steady", include_str!("../../scenarios/steady.toml")),
    ("morning-burst", include_str!("../../scenarios/morning-burst.toml")),
    ("reconnect-storm", include_str!("../../scenarios/reconnect-storm.toml")),
    ("flaky-cellular", include_str!("../../scenarios/flaky-cellular.toml")),
    ("backfill", include_str!("../../scenarios/backfill.toml")),
    ("garbage-device", include_str!("../../scenarios/garbage-device.toml")),
    ("clock-drift", include_str!("../../scenarios/clock-drift.toml")),
    ("mixed-fleet", include_str!("../../scenarios/mixed-fleet.toml")),
    ("ten-thousand", include_str!("../../scenarios/ten-thousand.toml")),
    ("soak", include_str!("../../scenarios/soak.toml")),
];

/// The text of a scenario.
pub fn shipped(name: &str) -> Option<&'static str> {
    SHIPPED.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
}
